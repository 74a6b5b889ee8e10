"""Triplet losses over all triplets of a batch, or over those that a miner keeps, without listing a triplet.

A triplet (a, p, n) violates its margin by ``v = c_an - c_ap + margin``, c the closeness. Of a positive pair
it is enough to know how many negatives of the anchor lie in an interval of closeness whose ends stand at
constant distances from ``c_ap``, and the sum of their closeness: a few threshold statistics.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastdml.backends import select
from fastdml.engines.listed_pairs import listed_closeness
from fastdml.engines.pair import pair_statistics
from fastdml.engines.positives import positive_pairs
from fastdml.engines.sides import Sides, compared_sides
from fastdml.engines.streamed_triplets import TripletTerms, listed_triplets, streamed_triplets
from fastdml.engines.thresholds import sums_beyond
from fastdml.errors import InputError
from fastdml.rules import EVERYTHING, Closeness, Contrastive, RowLosses, Selection

ALL_TRIPLETS = (-math.inf, math.inf)


class _Positives(NamedTuple):
    """Positive pairs [T] by anchor, those of anchor i from ``offsets[i]``; and above what negatives count."""

    anchors: Tensor
    others: Tensor
    offsets: Tensor
    negative_threshold: Tensor | None = None


def mined_window(kind: str, margin: float) -> tuple[float, float]:
    """The triplets of a triplet margin miner, as the interval ``(low, high]`` of ``c_ap - c_an``.

    Args:
        kind: "all" for at most ``margin``; "hard" and "semihard" for those of them at most 0, and above 0;
            "easy" for above ``margin``.

    Raises:
        InputError: another kind.
    """
    windows = {
        "all": (-math.inf, margin),
        "hard": (-math.inf, min(margin, 0.0)),
        "semihard": (0.0, margin),
        "easy": (margin, math.inf),
    }
    if kind not in windows:
        raise InputError(f"mined must name one of {', '.join(windows)}, got {kind!r}")
    return windows[kind]


def triplet_losses(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    closeness: Closeness,
    own: Tensor | None = None,
    margin: float = 0.05,
    low: float = -math.inf,
    high: float = math.inf,
    mined: tuple[str, float] | None = None,
    selection: Selection = EVERYTHING,
    smooth: bool = False,
    swap: bool = False,
) -> RowLosses:
    """Sum and number of the triplet losses ``[v]_+`` of every anchor, differentiable once in the embeddings.

    Args:
        embeddings: [N, D] anchors, of any length; normalised here where the closeness asks for it.
        labels: [N], int64.
        ref_embeddings: [M, D] candidates; None compares the anchors with each other.
        ref_labels: [M], int64; given exactly when ``ref_embeddings`` is.
        closeness: what pairs are compared by.
        own: [N], int64, with candidates: the candidate that each anchor itself is, which is no pair; -1:
            none.
        margin: by how much a positive should be closer than a negative.
        low, high: only losses strictly between them are summed and counted.
        mined: kind and margin of a triplet margin miner (:func:`mined_window`) that chooses triplets.
        selection: which positives and negatives of an anchor make triplets.
        smooth: ``log(1 + e^v)`` in place of ``[v]_+``.
        swap: takes the closeness of positive and negative where it is above that of anchor and negative.

    With ``smooth`` or ``swap`` every positive pair meets every negative one by one: time grows with the
    number of triplets, memory is linear in the batch all the same.

    Returns:
        Both [N], in float64 for float64 embeddings, else float32.

    Raises:
        BackendError: the backend that was asked for cannot run here.
        InputError: ``swap`` with candidates, which are not compared with each other; an unknown kind of
            miner.
    """
    if swap and ref_embeddings is not None:
        raise InputError(
            "swap must be False with ref_embeddings, whose rows are not compared with each other"
        )
    window = ALL_TRIPLETS if mined is None else mined_window(*mined)
    with torch.autocast(embeddings.device.type, enabled=False):
        sides = compared_sides(closeness, embeddings, labels, ref_embeddings, ref_labels, own)
        pairs = _positives(sides)
        poison = sides.poison()
        if selection.selects and len(pairs.anchors):
            pairs = _selected(sides, pairs, selection, embeddings, ref_embeddings)
        if len(pairs.anchors) == 0:
            return RowLosses(poison, torch.zeros_like(poison), "triplet")
        one_by_one = smooth or swap
        backend = select(
            embeddings.device.type, embeddings.dtype, lambda name: _unsupported(name, one_by_one)
        ).name
        if one_by_one or backend == "reference":
            terms = TripletTerms(margin, window, low, high, smooth, swap)
            counts, sums = streamed_triplets(
                sides, pairs.anchors, pairs.others, pairs.negative_threshold, terms, backend == "reference"
            )
        else:
            counts, sums = _by_thresholds(sides, pairs, margin, window, low, high)
        total, count = (_by_anchor(values, pairs, backend) for values in (sums, counts))
        return RowLosses(total.to(poison.dtype) + poison, count.to(poison.dtype), "triplet")


@torch.no_grad()
def list_triplets(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    closeness: Closeness,
    own: Tensor | None = None,
    mined: tuple[str, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The triplets that a triplet margin miner keeps, by anchor, then positive, then negative.

    The arguments are those of :func:`triplet_losses`. Returns anchors, positives and negatives, int64, as
    indices of anchors and of candidates; they take all the memory that grows.
    """
    window = ALL_TRIPLETS if mined is None else mined_window(*mined)
    with torch.autocast(embeddings.device.type, enabled=False):
        sides = compared_sides(closeness, embeddings, labels, ref_embeddings, ref_labels, own)
        pairs = _positives(sides)
        return listed_triplets(sides, pairs.anchors, pairs.others, window)


def _unsupported(backend: str, one_by_one: bool) -> str | None:
    if one_by_one and backend not in ("blocked", "reference"):
        return "triplet losses that are smooth or swap run in plain PyTorch"
    return None


def _positives(sides: Sides) -> _Positives:
    anchors, others = positive_pairs(sides.labels, sides.ref_labels, sides.own)
    return _Positives(anchors, others, _starts(anchors, len(sides.labels)))


def _by_anchor(values: Tensor, pairs: _Positives, backend: str) -> Tensor:
    """Sums [N] over the pairs of each anchor, the same in every run."""
    if backend == "reference":  # segment_reduce cannot be differentiated twice
        return values.new_zeros(len(pairs.offsets) - 1).index_add(0, pairs.anchors, values)
    return torch.segment_reduce(values, "sum", offsets=pairs.offsets)


def _starts(anchors: Tensor, count: int) -> Tensor:
    return torch.searchsorted(anchors, torch.arange(count + 1, device=anchors.device))


@torch.no_grad()
def _selected(
    sides: Sides, pairs: _Positives, selection: Selection, embeddings: Tensor, ref_embeddings: Tensor | None
) -> _Positives:
    """The positives that a selection keeps, and its threshold for the negatives of each anchor."""
    least = most = sides.squares
    if selection.relative:
        # the extremes are those of any rule
        found = pair_statistics(
            Contrastive(), embeddings, sides.labels, ref_embeddings, sides.ref_labels,
            closeness=sides.closeness, own=sides.own, selection=selection,
        )  # fmt: skip
        least, most = found.least_positive.to(least.dtype), found.most_negative.to(least.dtype)
    c = listed_closeness(sides, pairs.anchors, pairs.others)
    kept = (c < selection.duplicate) & (c < selection.positive_threshold(most)[pairs.anchors])
    anchors, others = pairs.anchors[kept], pairs.others[kept]
    offsets = _starts(anchors, len(sides.labels))
    return _Positives(anchors, others, offsets, selection.negative_threshold(least))


def _by_thresholds(
    sides: Sides, pairs: _Positives, margin: float, window: tuple[float, float], low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Number and sum of the losses of every positive pair, each [T] float64."""
    c = listed_closeness(sides, pairs.anchors, pairs.others)
    fixed = c.detach()
    if not low < high or high <= 0:
        return torch.zeros_like(fixed, dtype=torch.float64), c.double() * 0
    limits = torch.finfo(c.dtype)

    def reaching(threshold: Tensor) -> Tensor:
        """The threshold that is exceeded by what reaches ``threshold``."""
        return torch.nextafter(threshold, torch.full_like(threshold, -math.inf))

    # negatives count above `least`, add to the sum above `nearest` too, and neither above `beyond`
    nearest = fixed - margin
    least = torch.full_like(c, -math.inf)
    if pairs.negative_threshold is not None:
        least = pairs.negative_threshold.to(c.dtype)[pairs.anchors]
    if window[1] < math.inf:
        least = torch.maximum(least, reaching(fixed - window[1]))
    if low >= 0:
        least = torch.maximum(least, nearest + low)
    beyond = torch.full_like(c, math.inf)
    if window[0] > -math.inf:
        beyond = reaching(fixed - window[0])
    if high < math.inf:
        beyond = torch.minimum(beyond, reaching(nearest + high))

    queries = [torch.maximum(least, nearest)]
    counts_zeros = low < 0 and window[1] > margin
    bounded = pairs.negative_threshold is not None or window[1] < math.inf
    if counts_zeros and bounded:
        queries.append(least)
    has_end = high < math.inf or window[0] > -math.inf
    if has_end:
        queries.append(beyond)
    thresholds = torch.stack(queries, dim=1).clamp(limits.min, limits.max)
    counts, sums = sums_beyond(sides, thresholds.flatten(), pairs.offsets * len(queries))
    counts, sums = counts.view_as(thresholds), sums.view_as(thresholds)
    # what a negative beyond a threshold adds is its distance from c_ap - margin
    sums = sums + counts * (thresholds.double() - (c.double() - margin)[:, None])
    total, count = sums[:, 0], counts[:, 0]
    if counts_zeros:
        count = counts[:, 1] if bounded else sides.negative_counts().double()[pairs.anchors]
    if has_end:
        total = torch.where(beyond > queries[0], total - sums[:, -1], 0)
        count = torch.where(beyond > (least if counts_zeros else queries[0]), count - counts[:, -1], 0)
    return count, total
