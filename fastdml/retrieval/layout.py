"""Queries and gallery sorted by label, so that the positives of a query are one range of gallery rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastdml.retrieval.inputs import RetrievalSets

# Two similarities this near (in units of the dtype's epsilon, for unit rows) are equal up to the rounding of
# the product, which can depend on where in a block a pair stands: products of other shapes may add the same
# terms in another order. Beyond 32 dimensions the difference grows with the root of their number: sums of
# 512, added one by one or in up to eight parts, were up to 10 apart.
_ROUNDING_ULPS, _FEW_DIMENSIONS = 4.0, 32


@dataclass(frozen=True)
class SortedSets:
    """Rows sorted by label, as they are compared.

    queries [Q, D]; gallery [G, D], or None: it is the queries. spans int32 [3, Q]: where the gallery rows of
    the query's label start and end, and which row the query itself is (-1: none). offsets int64 [Q + 1]: the
    running sum of the lengths of the spans. slack [Q]: how far below a positive's similarity a negative's
    still counts as equal. Cameras int64 [Q] and [G], or None for both.
    """

    queries: Tensor
    gallery: Tensor | None
    spans: Tensor
    offsets: Tensor
    slack: Tensor
    query_cameras: Tensor | None
    gallery_cameras: Tensor | None

    def some(self, first: int, last: int) -> SortedSets:
        """The queries [first, last) against the whole gallery."""
        if (first, last) == (0, self.queries.shape[0]):
            return self
        return replace(
            self,
            queries=self.queries[first:last],
            gallery=self.queries if self.gallery is None else self.gallery,
            spans=self.spans[:, first:last].contiguous(),
            offsets=self.offsets[first : last + 1] - self.offsets[first],
            slack=self.slack[first:last],
            query_cameras=None if self.query_cameras is None else self.query_cameras[first:last],
        )


def tie_width(dtype: torch.dtype, width: int) -> float:
    """How far apart similarities of equal unit rows [width] may be, by the rounding of their product."""
    return _ROUNDING_ULPS * math.sqrt(max(1.0, width / _FEW_DIMENSIONS)) * torch.finfo(dtype).eps


def sort_by_label(sets: RetrievalSets, tie_tolerance: float | None) -> tuple[SortedSets, Tensor]:
    """The sorted sets, and int64 [Q]: which query each sorted one is."""
    labels = sets.labels
    order = torch.argsort(labels[sets.query_rows], stable=True)
    query_rows, query_labels = sets.query_rows[order], labels[sets.query_rows[order]]
    alone = torch.equal(sets.query_rows, sets.gallery_rows)
    gallery_rows, gallery_labels = query_rows, query_labels
    if not alone:
        gallery_rows = sets.gallery_rows[torch.argsort(labels[sets.gallery_rows], stable=True)]
        gallery_labels = labels[gallery_rows]
    start = torch.searchsorted(gallery_labels, query_labels)
    end = torch.searchsorted(gallery_labels, query_labels, right=True)
    offsets = torch.zeros(start.numel() + 1, dtype=torch.int64, device=labels.device)
    torch.cumsum(end - start, 0, out=offsets[1:])

    queries = sets.compared(query_rows)
    gallery = queries if alone else sets.compared(gallery_rows)
    if tie_tolerance is None:
        tie_tolerance = tie_width(sets.dtype, queries.shape[1])
    longest = float(torch.linalg.vector_norm(gallery, dim=1).max())
    layout = SortedSets(
        queries=queries,
        gallery=None if alone else gallery,
        spans=torch.stack([start, end, sets.own(query_rows, gallery_rows)]).int(),
        offsets=offsets,
        slack=tie_tolerance * longest * torch.linalg.vector_norm(queries, dim=1),
        query_cameras=None if sets.cameras is None else sets.cameras[query_rows],
        gallery_cameras=None if sets.cameras is None else sets.cameras[gallery_rows],
    )
    return layout, order


def chunks(offsets: Tensor, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of queries with at most ``most`` gallery rows of their labels together, or of one query."""
    first, count = 0, offsets.numel() - 1
    while first < count:
        last = int(torch.searchsorted(offsets, offsets[first] + most, right=True)) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last
