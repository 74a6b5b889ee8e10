"""The dense form in plain PyTorch: any dtype, differentiable by autograd, the truth in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.rules import PairRule


def pair_masks(labels: Tensor, ref_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Bool masks [N, M] of the positive and of the negative pairs; an anchor is never its own positive."""
    same = labels[:, None] == (labels if ref_labels is None else ref_labels)[None, :]
    different = ~same
    if ref_labels is None:
        same = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same, different


def pair_similarity(embeddings: Tensor, ref_embeddings: Tensor | None) -> Tensor:
    """Cosine similarities [N, M] in the dtype of the embeddings, whatever autocast says."""
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings, dim=1)
        ref_unit = unit if ref_embeddings is None else F.normalize(ref_embeddings, dim=1)
        return unit @ ref_unit.T


def pair_losses(
    rule: PairRule,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    masks: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Loss of every anchor, shape [N], holding the whole N x M similarity matrix.

    Args:
        masks: positive and negative pairs, bool [N, M]; None takes them from the labels.
    """
    similarity = pair_similarity(embeddings, ref_embeddings)
    positive, negative = pair_masks(labels, ref_labels) if masks is None else masks
    losses = rule.dense(similarity, positive, negative)
    # A comparison with NaN is false, so mining would drop a NaN pair and return a plausible number.
    candidates = embeddings if ref_embeddings is None else ref_embeddings
    return losses + (embeddings * 0).sum(dim=1) + (candidates * 0).sum()
