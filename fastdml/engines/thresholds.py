"""Threshold statistics: how many negatives of an anchor lie beyond each of its thresholds, and by how much.

Where an anchor's positives set the thresholds, these make the triplet loss over all triplets without a
triplet ever being listed: O(positives) numbers an anchor.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastdml.backends import select
from fastdml.engines import threshold_blocked  # noqa: F401  defines its operators
from fastdml.engines.sides import Sides, compared_sides
from fastdml.engines.threshold_ops import operator
from fastdml.rules import Closeness


def threshold_sums(
    closeness: Closeness,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    own: Tensor | None,
    thresholds: Tensor,
    offsets: Tensor,
    negative_threshold: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Counts and sums of the negatives beyond thresholds, differentiable once in embeddings and thresholds.

    Args:
        closeness: what pairs are compared by.
        embeddings: [N, D] anchors, of any length; normalised here where the closeness asks for it.
        labels: [N], int64.
        ref_embeddings: [M, D] candidates; None compares the anchors with each other.
        ref_labels: [M], int64; given exactly when ``ref_embeddings`` is.
        own: [N], int64, with candidates: the candidate that each anchor itself is, which is no pair; -1:
            none.
        thresholds: [T], those of each anchor together, in any order.
        offsets: [N + 1], int64: the thresholds of anchor i are those from ``offsets[i]`` to
            ``offsets[i + 1]``.
        negative_threshold: [N]; negatives that are not closer than that of their anchor are left out.

    Returns:
        Both [T], float64: how many negatives of the anchor are closer than the threshold (strictly), and the
        sum of their closeness less the threshold. A threshold of -inf counts all, its sum means nothing.

    Raises:
        BackendError: the backend that was asked for cannot run here.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        sides = compared_sides(closeness, embeddings, labels, ref_embeddings, ref_labels, own)
        asked = thresholds.to(sides.rows.dtype)
        if negative_threshold is None:
            return sums_beyond(sides, asked, offsets)
        anchors = torch.searchsorted(offsets, torch.arange(len(asked), device=asked.device), right=True) - 1
        higher = torch.maximum(asked.detach(), negative_threshold.to(asked.dtype)[anchors])
        counts, sums = sums_beyond(sides, higher, offsets)
        further = torch.where(counts > 0, higher.double() - asked.double(), 0)
        return counts, sums + counts * further


def sums_beyond(sides: Sides, thresholds: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`threshold_sums` of rows that are already as they are compared, thresholds in their dtype."""
    thresholds = thresholds.nan_to_num(math.inf, math.inf, -math.inf)
    backend = "blocked"
    if sides.rows.numel() and len(sides.others[0]):
        backend = select(sides.rows.device.type, sides.rows.dtype).name
    if backend == "reference":
        return _dense_sums(sides, thresholds, offsets)
    counts, sums = _ThresholdSums.apply(
        sides.rows, sides.refs, thresholds, sides.squares.detach(), sides.labels,
        None if sides.ref_squares is None else sides.ref_squares.detach(), sides.ref_labels, sides.own,
        offsets, sides.closeness, backend,
    )  # fmt: skip
    return counts, sums


def _dense_sums(sides: Sides, thresholds: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The truth: every threshold against every candidate, [T, M]."""
    everything = slice(0, len(sides.rows))
    anchors = torch.repeat_interleave(offsets.diff())
    beyond = sides.closeness_of(everything)[anchors] - thresholds[:, None]
    kept = sides.negatives_of(everything)[anchors] & (beyond.detach() > 0)
    return kept.sum(dim=1).double(), torch.where(kept, beyond, 0).double().sum(dim=1)


class _ThresholdSums(torch.autograd.Function):
    """Saves what it was given and the counts; the backward computes the closeness again."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        refs: Tensor | None,
        thresholds: Tensor,
        squares: Tensor,
        labels: Tensor,
        ref_squares: Tensor | None,
        ref_labels: Tensor | None,
        own: Tensor | None,
        offsets: Tensor,
        closeness: Closeness,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        given = (rows, squares, labels, refs, ref_squares, ref_labels, own, thresholds, offsets)
        counts, sums = operator("forward", backend)(*given, closeness.code)
        poison = Sides(closeness, rows, squares, labels, refs, ref_squares, ref_labels).poison().double()
        sums = sums + torch.repeat_interleave(poison, offsets.diff(), output_size=len(thresholds))
        ctx.save_for_backward(*given, counts, poison)
        ctx.closeness, ctx.backend = closeness, backend
        ctx.mark_non_differentiable(counts)
        return counts, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        *given, counts, poison = ctx.saved_tensors
        need_rows, need_refs, need_thresholds = ctx.needs_input_grad[:3]
        grad_rows, grad_refs = operator("backward", ctx.backend)(
            grads[1], *given, ctx.closeness.code, need_rows, need_refs
        )
        return (
            grad_rows + poison.to(grad_rows.dtype)[:, None] if need_rows else None,
            grad_refs + poison.to(grad_refs.dtype).sum() if need_refs else None,
            -counts.to(given[7].dtype) * grads[1].to(given[7].dtype) if need_thresholds else None,
            *[None] * 8,
        )
