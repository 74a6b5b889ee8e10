"""Random triplets, a few of each anchor, for losses that are asked not to take all."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_triplets(
    labels: Tensor, ref_labels: Tensor | None, own: Tensor | None, per_anchor: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, positives and negatives, int64, drawn uniformly with replacement by torch's global generator.

    Args:
        labels: [N], int64.
        ref_labels: [M] of the candidates; None: those of the anchors, none of which is its own positive.
        own: [N], int64: the candidate that each anchor itself is, -1: none.
        per_anchor: how many triplets of every anchor that has a positive and a negative.
    """
    others = labels if ref_labels is None else ref_labels
    if ref_labels is None:
        own = torch.arange(len(labels), device=labels.device)
    order = torch.argsort(others, stable=True)
    ordered = others[order]
    first = torch.searchsorted(ordered, labels)
    same = torch.searchsorted(ordered, labels, right=True) - first
    place = torch.full_like(labels, len(others))  # of the anchor itself among those of its label
    positives = same
    if own is not None:
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        at = rank[own.clamp_min(0)] - first
        is_there = (own >= 0) & (at >= 0) & (at < same)
        place, positives = torch.where(is_there, at, place), same - is_there.to(same.dtype)
    negatives = len(others) - same
    anchors = torch.nonzero((positives > 0) & (negatives > 0)).squeeze(1).repeat_interleave(per_anchor)

    def draw(bound: Tensor) -> Tensor:
        chosen = (torch.rand(len(anchors), dtype=torch.float64, device=labels.device) * bound).long()
        return torch.minimum(chosen, bound - 1)

    within = draw(positives[anchors])
    within = within + (within >= place[anchors]).to(within.dtype)
    beyond = draw(negatives[anchors])
    beyond = torch.where(beyond >= first[anchors], beyond + same[anchors], beyond)
    return anchors, order[first[anchors] + within], order[beyond]
