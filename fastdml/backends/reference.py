"""The dense form in plain PyTorch: any dtype, differentiable by autograd, the truth in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.rules import Closeness, Extremes, PairStatistics, PairTerms, Selection


def compared_rows(closeness: Closeness, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows as they are compared, and their squared lengths."""
    rows = F.normalize(rows, dim=1) if closeness.normalised else rows
    return rows, (rows * rows).sum(dim=1)


def pair_masks(labels: Tensor, ref_labels: Tensor | None, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Bool masks [N, M] of the positive and of the negative pairs; an anchor is no pair of itself."""
    if ref_labels is None:
        own, ref_labels = torch.arange(len(labels), device=labels.device), labels
    same = labels[:, None] == ref_labels[None, :]
    different = ~same
    if own is not None:
        is_own = own[:, None] == torch.arange(len(ref_labels), device=labels.device)[None, :]
        same, different = same & ~is_own, different & ~is_own
    return same, different


def pair_closeness(closeness: Closeness, embeddings: Tensor, ref_embeddings: Tensor | None) -> Tensor:
    """Closeness [N, M] in the dtype of the embeddings, whatever autocast says."""
    with torch.autocast(embeddings.device.type, enabled=False):
        rows, squares = compared_rows(closeness, embeddings)
        if ref_embeddings is None:
            refs, ref_squares = rows, squares
        else:
            refs, ref_squares = compared_rows(closeness, ref_embeddings)
        return closeness.of(rows @ refs.T, squares[:, None], ref_squares[None, :])


class Side(NamedTuple):
    """The positives, or the negatives, that count: their closeness and anchors, one entry a pair.

    ``anchors`` None: ``c`` is a matrix [N, M], of which ``kept`` masks the pairs.
    """

    c: Tensor
    anchors: Tensor | None = None
    kept: Tensor | None = None

    def of_row(self, row: Tensor) -> Tensor:
        """A number of each anchor, for each of its pairs."""
        return row[:, None] if self.anchors is None else row[self.anchors]

    def safe(self, fill: Tensor) -> Tensor:
        """The closeness, ``fill`` where there is no pair: what is masked must be finite for the gradient."""
        if self.kept is None:
            return self.c
        finite = torch.where(fill.isfinite(), fill, 0).to(self.c.dtype)
        return torch.where(self.kept, self.c, finite[:, None])

    def sum(self, values: Tensor, count: int) -> Tensor:
        """Sum over the pairs of every one of ``count`` anchors."""
        if self.anchors is None:
            assert self.kept is not None
            return torch.where(self.kept, values, torch.zeros_like(values)).sum(dim=1)
        return values.new_zeros(count).index_add(0, self.anchors, values)

    def number(self, count: int) -> Tensor:
        """How many pairs every anchor has."""
        return self.sum(torch.ones_like(self.c.detach()), count)

    def extreme(self, count: int, largest: bool) -> Tensor:
        """The largest or the least closeness of every anchor, -inf or inf where it has no pair."""
        fill, c = (-math.inf if largest else math.inf), self.c.detach()
        if self.anchors is not None:
            start = c.new_full((count,), fill)
            return start.scatter_reduce(0, self.anchors, c, "amax" if largest else "amin")
        assert self.kept is not None
        if c.shape[1] == 0:
            return c.new_full((count,), fill)
        c = c.masked_fill(~self.kept, fill)
        return c.amax(dim=1) if largest else c.amin(dim=1)


def pair_statistics(
    terms: PairTerms,
    closeness: Closeness,
    selection: Selection,
    row: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    own: Tensor | None = None,
) -> PairStatistics:
    """The statistics of every anchor, holding the whole N x M matrix; autograd differentiates them."""
    c = pair_closeness(closeness, embeddings, ref_embeddings)
    positive, negative = pair_masks(labels, ref_labels, own)
    least = Side(c, kept=positive).extreme(len(c), largest=False)
    most = Side(c, kept=negative).extreme(len(c), largest=True)
    if selection.selects:
        fixed = c.detach()
        positive = positive & (fixed < selection.duplicate)
        least = Side(c, kept=positive).extreme(len(c), largest=False)
        positive = positive & (fixed < selection.positive_threshold(most)[:, None])
        negative = negative & (fixed > selection.negative_threshold(least)[:, None])
    statistics = statistics_of_sides(terms, row, Side(c, kept=positive), Side(c, kept=negative), len(c))
    # A comparison with NaN is false, so a selection would drop a NaN pair and return a plausible number.
    candidates = embeddings if ref_embeddings is None else ref_embeddings
    poison = (embeddings * 0).sum(dim=1) + (candidates * 0).sum()
    return statistics._replace(
        negative_sum=statistics.negative_sum + poison,
        positive_sum=statistics.positive_sum + poison,
        most_negative=most,
        least_positive=least,
    )


def statistics_of_sides(
    terms: PairTerms, row: Tensor, positives: Side, negatives: Side, count: int
) -> PairStatistics:
    """The statistics of ``count`` anchors from the pairs that count."""
    row = row.to(positives.c.dtype)
    least, most = positives.extreme(count, largest=False), negatives.extreme(count, largest=True)
    extremes = Extremes(least, positives.extreme(count, largest=True), most)
    negative_row = terms.negative_row(row, extremes)
    pushed, counted = terms.negative_terms(negatives.safe(most), negatives.of_row(negative_row.detach()))
    negative_sum = negatives.sum(pushed, count)
    positive_row = terms.positive_row(row, extremes, negative_sum.detach(), negative_row.detach()).detach()
    pulled, second = terms.positive_terms(positives.safe(least), positives.of_row(positive_row))
    return PairStatistics(
        negative_sum,
        negatives.sum(counted, count).detach(),
        positives.sum(pulled, count),
        positives.sum(second, count),
        most,
        least,
        positives.number(count),
        negatives.number(count),
        negative_row,
        positive_row,
    )
