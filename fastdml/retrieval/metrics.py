"""Recall@K and the result object of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.retrieval.inputs import RetrievalSets, prepare
from fastdml.retrieval.neighbours import search
from fastdml.retrieval.ranks import count_ranks


@dataclass(frozen=True)
class RetrievalResult:
    """What an evaluation found.

    Attributes:
        recall: K -> share of the scored queries whose first hit ranks at most K, in [0, 1]; NaN where no
            query has a positive in the gallery.
        first_hit_rank: int64 [Q], 1 for a query whose nearest neighbour is right; 0 where it has no positive.
        queries: number of queries that were scored.
        queries_without_positive: number of queries left out because the gallery holds no positive of them.
    """

    recall: dict[int, float]
    first_hit_rank: Tensor
    queries: int
    queries_without_positive: int
    sets: RetrievalSets

    def neighbours(self, queries: Tensor | Sequence[int], k: int = 8) -> tuple[Tensor, Tensor]:
        """The k nearest gallery rows of the queries at the chosen positions, nearest first.

        Returns:
            (indices int64 [len(queries), k] into the gallery, similarities of the same shape); index -1 where
            the gallery holds fewer than k rows besides the query.
        """
        sets = self.sets
        chosen = torch.as_tensor(queries, dtype=torch.int64, device=sets.queries.device).reshape(-1)
        count = sets.queries.shape[0]
        if chosen.numel() == 0:
            return chosen.new_empty((0, k)), sets.queries.new_empty((0, k))
        lowest, highest = int(chosen.min()), int(chosen.max())
        if lowest < 0 or highest >= count:
            raise InputError(f"queries must lie in [0, {count - 1}], got {lowest} to {highest}")
        picked = replace(
            sets,
            queries=sets.queries[chosen],
            query_labels=sets.query_labels[chosen],
            self_index=sets.self_index[chosen],
        )
        return search(picked, k)


def evaluate(
    embeddings: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    self_index: Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    normalise: bool = True,
    tie_tolerance: float | None = None,
) -> RetrievalResult:
    """Score a retrieval: every query against the gallery, or against all others where none is given.

    The first six arguments are those of `fastdml.retrieval.first_hit_ranks`; ``ks`` are the K of Recall@K,
    each at least 1. Queries with no positive in the gallery cannot be answered: they are left out of the
    recall and counted. Ties count against the query.

    Raises:
        InputError: naming the argument, what it was and what is accepted.
    """
    wanted = _check_ks(ks)
    sets = prepare(embeddings, labels, gallery, gallery_labels, self_index, normalise)
    ranks = count_ranks(sets, tie_tolerance)
    scored = ranks[ranks > 0]
    recall = {k: float((scored <= k).double().mean()) if scored.numel() else float("nan") for k in wanted}
    return RetrievalResult(
        recall=recall,
        first_hit_rank=ranks,
        queries=scored.numel(),
        queries_without_positive=ranks.numel() - scored.numel(),
        sets=sets,
    )


def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    self_index: Tensor | None = None,
    normalise: bool = True,
    tie_tolerance: float | None = None,
) -> dict[int, float]:
    """Recall@K for each K of ``ks``, in [0, 1]; arguments, exclusions and errors as in `evaluate`.

    >>> recall_at_k(torch.eye(4), torch.tensor([0, 0, 1, 1]), ks=(1, 4))  # all ties: nothing is recalled at 1
    {1: 0.0, 4: 1.0}
    """
    return evaluate(
        embeddings,
        labels,
        gallery,
        gallery_labels,
        self_index=self_index,
        ks=ks,
        normalise=normalise,
        tie_tolerance=tie_tolerance,
    ).recall


def _check_ks(ks: Sequence[int]) -> list[int]:
    wanted = [int(k) for k in ks]
    if not wanted or min(wanted) < 1 or any(k != given for k, given in zip(wanted, ks, strict=True)):
        raise InputError(f"ks must be whole numbers of at least 1, and at least one of them, got {list(ks)}")
    return wanted
