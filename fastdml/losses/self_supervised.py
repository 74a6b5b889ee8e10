"""Losses of samples and their augmented versions, without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdml.errors import InputError
from fastdml.losses.base import PairLoss
from fastdml.losses.n_pairs import NPairsLoss


class SelfSupervisedLoss(nn.Module):
    """A pair loss between two versions of the same samples, each sample a class of its own.

    Args:
        loss: a pair loss of :mod:`fastdml.losses`, but N-pairs.
        symmetric: both versions are anchors and candidates; else the first are anchors, the second
        candidates.
    """

    def __init__(self, loss: nn.Module, symmetric: bool = True) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss) or isinstance(loss, NPairsLoss):
            raise InputError(f"loss must be a pair loss that takes candidates, got {type(loss).__name__}")
        self.loss, self.symmetric = loss, symmetric

    def forward(self, embeddings: Tensor, ref_emb: Tensor) -> Any:
        """The loss of embeddings [N, D] and of the same samples in another version, [N, D]."""
        if ref_emb.shape != embeddings.shape:
            raise InputError(f"ref_emb must have shape {list(embeddings.shape)}, got {list(ref_emb.shape)}")
        labels = torch.arange(len(embeddings), device=embeddings.device)
        if self.symmetric:
            return self.loss(torch.cat([embeddings, ref_emb]), torch.cat([labels, labels]))
        return self.loss(embeddings, labels, ref_emb=ref_emb, ref_labels=labels)

    def extra_repr(self) -> str:
        return f"symmetric={self.symmetric}"
