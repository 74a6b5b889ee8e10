"""The exact ranks of every query's positives, by counting, in memory linear in the number of embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.retrieval import blocked, rank_ops
from fastdml.retrieval.inputs import RetrievalSets
from fastdml.retrieval.layout import SortedSets, chunks, sort_by_label
from fastdml.retrieval.precision import full_precision

# Pairs of a query and a gallery row of its label that are held at once. Where all fit, each product of a set
# with itself is made once; else queries go in chunks.
MOST_PAIRS = 8 << 20


def ranks_of_positives(
    sets: RetrievalSets, tie_tolerance: float | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some queries at a time, (queries int64 [C], ranks int32 [R], offsets int64 [C + 1]).

    The ranks of queries[c] stand, ascending, from offsets[c] on; the rest up to offsets[c + 1] is 0.
    """
    if tie_tolerance is not None and not tie_tolerance >= 0:
        raise InputError(f"tie_tolerance must be None or at least 0, got {tie_tolerance}")
    layout, order = sort_by_label(sets, tie_tolerance)
    for first, last in chunks(layout.offsets, MOST_PAIRS):
        some = layout.some(first, last)
        with full_precision(sets.embeddings.device):
            ranks = _rank(some)
        yield order[first:last], ranks, some.offsets


def _rank(sets: SortedSets) -> Tensor:
    if not rank_ops.runs_here(sets.queries.device):
        return blocked.rank_positives(sets)
    return torch.ops.fastdml.rank_positives_cpu(
        sets.queries,
        sets.gallery,
        sets.spans,
        sets.offsets,
        sets.slack,
        sets.query_cameras,
        sets.gallery_cameras,
    )
