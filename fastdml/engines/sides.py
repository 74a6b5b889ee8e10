"""The two sides of a comparison, as they are compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastdml.backends.dtypes import accumulator
from fastdml.backends.reference import compared_rows
from fastdml.rules import Closeness


class Sides(NamedTuple):
    """Anchors [N, D] and candidates [M, D] as they are compared, in the accumulator dtype.

    ``refs`` and what belongs to it is None where the anchors are compared with each other. ``squares`` are
    the squared lengths of the rows; ``own`` [N] int64, with candidates, is the candidate that each anchor
    itself is, -1: none.
    """

    closeness: Closeness
    rows: Tensor
    squares: Tensor
    labels: Tensor
    refs: Tensor | None = None
    ref_squares: Tensor | None = None
    ref_labels: Tensor | None = None
    own: Tensor | None = None

    @property
    def others(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, squares and labels of the candidates, which are the anchors where there are no others."""
        if self.refs is None or self.ref_squares is None or self.ref_labels is None:
            return self.rows, self.squares, self.labels
        return self.refs, self.ref_squares, self.ref_labels

    def closeness_of(self, at: slice) -> Tensor:
        """Closeness [B, M] of the anchors ``at`` to all candidates."""
        refs, ref_squares, _ = self.others
        return self.closeness.of(self.rows[at] @ refs.T, self.squares[at, None], ref_squares[None, :])

    def negatives_of(self, at: slice) -> Tensor:
        """Bool mask [B, M] of the negatives of the anchors ``at``."""
        ref_labels = self.others[2]
        negative = self.labels[at, None] != ref_labels[None, :]
        if self.own is not None:
            columns = torch.arange(len(ref_labels), device=ref_labels.device)
            negative &= self.own[at, None] != columns[None, :]
        return negative

    def negative_counts(self) -> Tensor:
        """[N] int64: how many negatives every anchor has."""
        ref_labels = self.others[2]
        ordered = ref_labels.sort().values
        labels = self.labels.contiguous()
        same = torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)
        negatives = len(ref_labels) - same
        if self.own is not None and len(ref_labels):
            is_negative = (self.own >= 0) & (ref_labels[self.own.clamp_min(0)] != self.labels)
            negatives = negatives - is_negative.long()
        return negatives

    def poison(self) -> Tensor:
        """[N] zeros; NaN for an anchor that is not finite, and for all where a candidate is not.

        Comparisons with NaN are false, so what counts pairs would else leave them out in silence.
        """
        return self.squares * 0 + (self.others[1] * 0).sum()


def sides_of_rows(
    closeness: Closeness,
    rows: Tensor,
    labels: Tensor,
    refs: Tensor | None = None,
    ref_labels: Tensor | None = None,
    own: Tensor | None = None,
) -> Sides:
    """From rows that are already as they are compared."""
    squares = (rows * rows).sum(dim=1)
    if refs is None:
        return Sides(closeness, rows, squares, labels)
    return Sides(closeness, rows, squares, labels, refs, (refs * refs).sum(dim=1), ref_labels, own)


def compared_sides(
    closeness: Closeness,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    own: Tensor | None = None,
) -> Sides:
    """From embeddings of any length and dtype; differentiable."""
    acc = accumulator(embeddings.dtype)
    rows, squares = compared_rows(closeness, embeddings.to(acc))
    if ref_embeddings is None:
        return Sides(closeness, rows, squares, labels)
    # a memory of past batches may change before the backward
    refs, ref_squares = compared_rows(closeness, ref_embeddings.to(acc, copy=not closeness.normalised))
    return Sides(closeness, rows, squares, labels, refs, ref_squares, ref_labels, own)
