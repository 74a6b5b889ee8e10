"""Triplets one by one: every positive pair against all candidates, in blocks whose memory does not grow.

For what threshold statistics cannot give: losses of another form than ``[v]_+``, and lists of triplets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.engines.sides import Sides, sides_of_rows
from fastdml.rules import Closeness

CPU_BLOCK, DEVICE_BLOCK = 1 << 19, 1 << 23
"""Triplets of a block, on the CPU and on any other device."""


class TripletTerms(NamedTuple):
    """The loss of a triplet and which count, as in :func:`fastdml.engines.triplets.triplet_losses`."""

    margin: float
    window: tuple[float, float]
    low: float
    high: float
    smooth: bool
    swap: bool


def streamed_triplets(
    sides: Sides,
    anchors: Tensor,
    others: Tensor,
    negative_threshold: Tensor | None,
    terms: TripletTerms,
    at_once: bool = False,
) -> tuple[Tensor, Tensor]:
    """Number and sum of the losses of every positive pair, each [T] float64.

    Args:
        anchors, others: [T] int64, the positive pairs, sorted by anchor.
        negative_threshold: [N]; negatives that are not closer than that of their anchor are left out.
        at_once: one block for all, differentiated by autograd any number of times.
    """
    if at_once:
        return _block(sides, anchors, others, negative_threshold, terms)
    counts, sums = _StreamedTriplets.apply(
        sides.rows, sides.refs, sides.labels, sides.ref_labels, sides.own, anchors, others,
        negative_threshold, sides.closeness, terms,
    )  # fmt: skip
    return counts, sums


def listed_triplets(
    sides: Sides, anchors: Tensor, others: Tensor, window: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The triplets of positive pairs, sorted by anchor, whose ``c_ap - c_an`` lies within ``(low, high]``."""
    found = []
    for at in _pieces(sides.rows, sides.refs, len(anchors)):
        ours, theirs = anchors[at], others[at]
        near, negative = _candidates(sides, ours)
        positive = near.gather(1, theirs[:, None])
        pair, other = torch.where(negative & _within(positive - near, window))
        found.append((ours[pair], theirs[pair], other))
    if not found:
        return (anchors.new_empty(0), anchors.new_empty(0), anchors.new_empty(0))
    first, second, third = (torch.cat(part) for part in zip(*found, strict=True))
    return first, second, third


def _pieces(rows: Tensor, refs: Tensor | None, count: int) -> Iterator[slice]:
    """Blocks of ``count`` pairs."""
    candidates = len(rows if refs is None else refs)
    step = max(1, (CPU_BLOCK if rows.is_cpu else DEVICE_BLOCK) // max(1, candidates))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _candidates(sides: Sides, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """For ascending anchors [B], closeness to all candidates and mask of the negatives, [B, M] each."""
    first = int(anchors[0])
    block = slice(first, int(anchors[-1]) + 1)
    local = anchors - first
    return sides.closeness_of(block)[local], sides.negatives_of(block)[local]


def _within(values: Tensor, window: tuple[float, float]) -> Tensor:
    return (values > window[0]) & (values <= window[1])


def _block(
    sides: Sides, anchors: Tensor, others: Tensor, negative_threshold: Tensor | None, terms: TripletTerms
) -> tuple[Tensor, Tensor]:
    """Number and sum [B] float64 of the losses of positive pairs, differentiable in the rows."""
    near, kept = _candidates(sides, anchors)
    positive = near.gather(1, others[:, None])
    if negative_threshold is not None:
        kept = kept & (near > negative_threshold[anchors, None])
    kept = kept & _within(positive - near, terms.window)
    if terms.swap:
        between = sides.closeness.of(
            sides.rows[others] @ sides.rows.T, sides.squares[others, None], sides.squares[None, :]
        )
        near = torch.maximum(near, between)
    violation = near - positive + terms.margin
    losses = F.softplus(violation) if terms.smooth else F.relu(violation)
    kept = kept & (losses > terms.low) & (losses < terms.high)
    return kept.sum(dim=1).double(), torch.where(kept, losses, 0).sum(dim=1, dtype=torch.float64)


class _StreamedTriplets(torch.autograd.Function):
    """Saves what it was given; the backward makes each block again and differentiates it."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        refs: Tensor | None,
        labels: Tensor,
        ref_labels: Tensor | None,
        own: Tensor | None,
        anchors: Tensor,
        others: Tensor,
        negative_threshold: Tensor | None,
        closeness: Closeness,
        terms: TripletTerms,
    ) -> tuple[Tensor, Tensor]:
        sides = sides_of_rows(closeness, rows, labels, refs, ref_labels, own)
        found = [
            _block(sides, anchors[at], others[at], negative_threshold, terms)
            for at in _pieces(sides.rows, sides.refs, len(anchors))
        ]
        ctx.save_for_backward(rows, refs, labels, ref_labels, own, anchors, others, negative_threshold)
        ctx.closeness, ctx.terms = closeness, terms
        counts, sums = (torch.cat(part) for part in zip(*found, strict=True))
        ctx.mark_non_differentiable(counts)
        return counts, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        rows, refs, labels, ref_labels, own, anchors, others, negative_threshold = ctx.saved_tensors
        leaf = rows.detach().requires_grad_()
        ref_leaf = None if refs is None else refs.detach().requires_grad_()
        wanted = [leaf] if ref_leaf is None else [leaf, ref_leaf]
        found = [torch.zeros_like(side) for side in wanted]
        with torch.enable_grad():
            for at in _pieces(rows, refs, len(anchors)):
                sides = sides_of_rows(ctx.closeness, leaf, labels, ref_leaf, ref_labels, own)
                _, sums = _block(sides, anchors[at], others[at], negative_threshold, ctx.terms)
                for total, part in zip(found, torch.autograd.grad(sums, wanted, grads[1][at]), strict=True):
                    total += part
        return found[0], found[1] if refs is not None else None, *[None] * 8
