"""The positive pairs of a batch, listed: O(sum of the positives of every anchor) numbers, never N x N."""

from __future__ import annotations

import torch
from torch import Tensor


def positive_pairs(
    labels: Tensor, ref_labels: Tensor | None = None, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Anchors and positives of all positive pairs, int64 [T] each, by anchor and then by candidate.

    Args:
        labels: [N], int64.
        ref_labels: [M] of the candidates; None: those of the anchors, none of which is its own positive.
        own: [N], int64: the candidate that each anchor itself is, -1: none.
    """
    others = labels if ref_labels is None else ref_labels
    order = torch.argsort(others, stable=True)
    ordered = others[order]
    first = torch.searchsorted(ordered, labels)
    count = torch.searchsorted(ordered, labels, right=True) - first
    anchors = torch.repeat_interleave(torch.arange(len(labels), device=labels.device), count)
    start = torch.cumsum(count, 0) - count
    positives = order[first[anchors] + torch.arange(len(anchors), device=labels.device) - start[anchors]]
    if ref_labels is None:
        kept = anchors != positives
    elif own is not None:
        kept = own[anchors] != positives
    else:
        return anchors, positives
    return anchors[kept], positives[kept]
