"""What the ranks of a query's positives are worth: precision, average precision, MAP@R."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.retrieval.inputs import RetrievalSets
from fastdml.retrieval.layout import chunks
from fastdml.retrieval.ranks import ranks_of_positives

# Ranks that are weighed at once, at about 50 bytes each.
_TOGETHER = 1 << 18


@dataclass(frozen=True)
class QueryScores:
    """Numbers of each query, [Q] each; of a query without a positive 0, and NaN where float64.

    first_hit_rank and positives int64; average_precision, r_precision and map_at_r float64.
    """

    first_hit_rank: Tensor
    positives: Tensor
    average_precision: Tensor
    r_precision: Tensor
    map_at_r: Tensor


def score(sets: RetrievalSets, tie_tolerance: float | None) -> QueryScores:
    """The scores of every query."""
    whole = torch.zeros((2, sets.query_rows.numel()), dtype=torch.int64, device=sets.labels.device)
    share = whole.new_full((3, whole.shape[1]), torch.nan, dtype=torch.float64)
    scores = QueryScores(*whole, *share)
    for queries, ranks, offsets in ranks_of_positives(sets, tie_tolerance):
        for first, last in chunks(offsets, _TOGETHER):
            part = offsets[first : last + 1]
            _weigh(scores, queries[first:last], ranks[int(part[0]) : int(part[-1])], part - part[0])
    return scores


def _weigh(scores: QueryScores, queries: Tensor, ranks: Tensor, offsets: Tensor) -> None:
    """Writes the scores of some queries: each one's ranks ascend from its offset on, zeros after them."""
    lengths = offsets.diff()
    query = torch.repeat_interleave(lengths)  # [R], which of the queries
    hit = torch.arange(1, ranks.numel() + 1, device=ranks.device) - offsets[query]  # the first is 1
    found = ranks > 0
    query, hit, ranks = query[found], hit[found], ranks[found].long()

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(queries.numel()).index_add_(0, query, values)

    positives = total(torch.ones_like(ranks))
    precision = hit.double() / ranks
    among_first = (ranks <= positives[query]).double()
    scores.positives[queries] = positives
    scores.first_hit_rank[queries[query[hit == 1]]] = ranks[hit == 1]
    # 0 / 0 is NaN: nothing can be said of a query without a positive.
    scores.average_precision[queries] = total(precision) / positives
    scores.r_precision[queries] = total(among_first) / positives
    scores.map_at_r[queries] = total(precision * among_first) / positives
