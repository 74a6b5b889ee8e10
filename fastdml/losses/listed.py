"""Index tuples, as miners list them: pairs and triplets, and what a rule sums over them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastdml.backends.reference import Side, pair_masks, statistics_of_sides
from fastdml.engines.listed_pairs import pair_closeness_of
from fastdml.errors import InputError
from fastdml.rules import Closeness, PairRule, PairStatistics


class _Batch(Protocol):
    @property
    def embeddings(self) -> Tensor: ...
    @property
    def ref_embeddings(self) -> Tensor | None: ...
    @property
    def candidates(self) -> int: ...


class ListedPairs(NamedTuple):
    """Positive pairs and negative pairs, anchor and candidate of each, int64."""

    positive_anchors: Tensor
    positives: Tensor
    negative_anchors: Tensor
    negatives: Tensor

    def pairs(self) -> ListedPairs:
        return self

    def without(self, own: Tensor | None) -> ListedPairs:
        """Without the positive pairs of anchors with themselves."""
        if own is None:
            return self
        kept = own[self.positive_anchors] != self.positives
        return self._replace(positive_anchors=self.positive_anchors[kept], positives=self.positives[kept])

    def triplets(self) -> ListedTriplets:
        """Every listed positive of an anchor with all its listed negatives, by positive."""
        order = torch.argsort(self.negative_anchors, stable=True)
        anchors = self.negative_anchors[order]
        first = torch.searchsorted(anchors, self.positive_anchors)
        count = torch.searchsorted(anchors, self.positive_anchors, right=True) - first
        positive = torch.repeat_interleave(torch.arange(len(first), device=first.device), count)
        start = torch.cumsum(count, 0) - count
        within = torch.arange(len(positive), device=first.device) - start[positive]
        negative = order[first[positive] + within]
        return ListedTriplets(
            self.positive_anchors[positive], self.positives[positive], self.negatives[negative]
        )


class ListedTriplets(NamedTuple):
    """Anchor, positive and negative of every triplet, int64."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor

    def pairs(self) -> ListedPairs:
        return ListedPairs(self.anchors, self.positives, self.anchors, self.negatives)

    def without(self, own: Tensor | None) -> ListedTriplets:
        """Without the triplets whose positive is the anchor itself."""
        if own is None:
            return self
        kept = own[self.anchors] != self.positives
        return ListedTriplets(*(index[kept] for index in self))

    def triplets(self) -> ListedTriplets:
        return self


def all_pairs(labels: Tensor, ref_labels: Tensor | None, own: Tensor | None = None) -> ListedPairs:
    """Every pair by label, by anchor and then by candidate."""
    positive, negative = pair_masks(labels, ref_labels, own)
    return ListedPairs(*torch.where(positive), *torch.where(negative))


def listed_tuple(
    pairs: Any, anchors: int, candidates: int, device: torch.device
) -> ListedPairs | ListedTriplets:
    """The pairs or triplets of index tensors.

    Args:
        pairs: (anchors, positives, anchors, negatives) or (anchors, positives, negatives).

    Raises:
        InputError: another number of tensors, lengths that differ, an index out of range (checked on the CPU
            only: reading indices back from a GPU would stall it).
    """
    try:
        count = len(pairs)
    except TypeError:
        count = -1
    if isinstance(pairs, Tensor | str | dict) or count not in (3, 4):
        raise InputError(f"indices_tuple must hold 3 or 4 index tensors, got {type(pairs).__name__}")
    indices = [torch.as_tensor(index, device=device) for index in pairs]
    sides = {"positive": indices[:2], "negative": indices[2:]}
    if count == 3:
        sides = {"positive": indices[:2], "negative": [indices[0], indices[2]]}
    for side, (rows, columns) in sides.items():
        if rows.ndim != 1 or rows.shape != columns.shape:
            raise InputError(
                f"indices_tuple must hold {side} pairs as two tensors of one length, got {list(rows.shape)} "
                f"and {list(columns.shape)}"
            )
        for index, bound in ((rows, anchors), (columns, candidates)):
            if device.type == "cpu" and len(index) and (int(index.min()) < 0 or int(index.max()) >= bound):
                raise InputError(
                    f"indices_tuple must hold {side} indices from 0 to {bound - 1}, "
                    f"got {int(index.min())} to {int(index.max())}"
                )
    indices = [index.long() for index in indices]
    return ListedTriplets(*indices) if count == 3 else ListedPairs(*indices)


def listed_closeness(closeness: Closeness, batch: _Batch, anchors: Tensor, others: Tensor) -> Tensor:
    """Closeness [T] of listed pairs, differentiable, in memory linear in their number."""
    return pair_closeness_of(closeness, batch.embeddings, batch.ref_embeddings, anchors, others)


def listed_statistics(
    rule: PairRule, closeness: Closeness, batch: _Batch, pairs: ListedPairs, row: Tensor | None
) -> PairStatistics:
    """What ``rule`` sums over listed pairs."""
    count = len(batch.embeddings)
    sides: list[Side] = []
    for anchors, others in (pairs[:2], pairs[2:]):
        if not rule.counts_duplicates:
            both = torch.unique(anchors * batch.candidates + others)
            anchors, others = both // max(1, batch.candidates), both % max(1, batch.candidates)
        sides.append(Side(listed_closeness(closeness, batch, anchors, others), anchors))
    if row is None:
        row = batch.embeddings.new_zeros(count)
    positives, negatives = sides
    return statistics_of_sides(rule.terms(closeness), row, positives, negatives, count)
