"""What an evaluation found: a table to print, numbers of each query, its worst queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.retrieval.clusters import Clustering
from fastdml.retrieval.inputs import RetrievalSets
from fastdml.retrieval.metrics import QueryScores
from fastdml.retrieval.neighbours import search
from fastdml.retrieval.ranks import ranks_of_positives


@dataclass(frozen=True, repr=False)
class RetrievalResult:
    """Means in [0, 1] over the queries that have a positive in the gallery; NaN where none has.

    Attributes:
        recall: K -> share of the scored queries whose first hit ranks at most K.
        r_precision: share of hits among the first R, R being the number of the query's positives.
        map_at_r: MAP@R, ``1/R sum of precision(i)`` over the hits i among the first R.
        mean_average_precision: mAP, the mean of the precision at each hit, over all hits.
        per_query: the same of each query.
        clustering: NMI and AMI, where they were asked for.
        sets: what was compared.
        tie_tolerance: as it was given.
    """

    recall: dict[int, float]
    r_precision: float
    map_at_r: float
    mean_average_precision: float
    per_query: QueryScores
    clustering: Clustering | None
    sets: RetrievalSets
    tie_tolerance: float | None

    @property
    def first_hit_rank(self) -> Tensor:
        """int64 [Q], 1 for a query whose nearest neighbour is right; 0 where it has no positive."""
        return self.per_query.first_hit_rank

    @property
    def average_precision(self) -> Tensor:
        """float64 [Q], NaN where a query has no positive."""
        return self.per_query.average_precision

    @property
    def queries(self) -> int:
        """Number of queries that were scored."""
        return int((self.first_hit_rank > 0).sum())

    @property
    def queries_without_positive(self) -> int:
        """Number of queries that were left out because the gallery holds no positive of them."""
        return self.first_hit_rank.numel() - self.queries

    def cmc(self, k: int) -> Tensor:
        """The cumulative matching characteristic, float64 [k]: Recall@1 to Recall@k."""
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        scored = self.first_hit_rank[self.first_hit_rank > 0]
        hits = torch.bincount(scored.clamp(max=k + 1), minlength=k + 2)[1 : k + 1]
        return hits.cumsum(0).double() / scored.numel()

    def worst(self, n: int = 10) -> Tensor:
        """The n scored queries of the least average precision, worst first: positions int64 [n or fewer]."""
        if n < 0:
            raise InputError(f"n must be at least 0, got {n}")
        scored = torch.nonzero(self.first_hit_rank > 0).squeeze(1)
        return scored[torch.argsort(self.average_precision[scored], stable=True)[:n]]

    def positive_ranks(self, queries: Tensor | Sequence[int]) -> list[Tensor]:
        """The ranks of all positives of the queries at the chosen positions, int64 and ascending each.

        They are counted anew: all of them together would take memory quadratic in the size of a class.
        """
        chosen = self._chosen(queries)
        sets = self.sets.of_queries(chosen)
        found: dict[int, Tensor] = {}
        for some, ranks, offsets in ranks_of_positives(sets, self.tie_tolerance):
            parts = ranks.long().tensor_split(offsets[1:-1].cpu())
            found.update((query, part[part > 0]) for query, part in zip(some.tolist(), parts, strict=True))
        return [found[query] for query in range(chosen.numel())]

    def neighbours(self, queries: Tensor | Sequence[int], k: int = 8) -> tuple[Tensor, Tensor]:
        """The k nearest gallery rows of the queries at the chosen positions, nearest first.

        Returns:
            (positions in the gallery int64 [len(queries), k], similarities of the same shape); position -1
            where the gallery holds fewer than k rows besides the query.
        """
        return search(self.sets, self.sets.query_rows[self._chosen(queries)], k)

    def to_dict(self) -> dict[str, float | int]:
        """The numbers that the table shows, under plain names, for JSON."""
        numbers: dict[str, float | int] = {f"recall_at_{k}": share for k, share in self.recall.items()}
        numbers |= {
            "r_precision": self.r_precision,
            "map_at_r": self.map_at_r,
            "mean_average_precision": self.mean_average_precision,
            "queries": self.queries,
            "queries_without_positive": self.queries_without_positive,
        }
        if (found := self.clustering) is not None:
            numbers |= {"nmi": found.nmi, "ami": found.ami, "clusters": found.clusters, "seed": found.seed}
        return numbers

    def __repr__(self) -> str:
        lines = [(f"Recall@{k}", share) for k, share in self.recall.items()]
        lines += [("R-precision", self.r_precision), ("MAP@R", self.map_at_r)]
        lines += [("mAP", self.mean_average_precision)]
        if self.clustering is not None:
            lines += [("NMI", self.clustering.nmi), ("AMI", self.clustering.ami)]
        width = max(len(name) for name, _ in lines)
        table = [f"{name:<{width}}  {100 * share:6.2f} %" for name, share in lines]
        about = f"{self.queries} queries, gallery of {self.sets.gallery_rows.numel()}"
        if self.queries_without_positive:
            about += f"; {self.queries_without_positive} more have no positive there"
        if self.clustering is not None:
            about += f"; k-means of {self.clustering.clusters} clusters, seed {self.clustering.seed}"
        return "\n".join([*table, about])

    def _chosen(self, queries: Tensor | Sequence[int]) -> Tensor:
        rows = self.sets.query_rows
        chosen = torch.as_tensor(queries, dtype=torch.int64, device=rows.device).reshape(-1)
        if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < rows.numel():
            raise InputError(
                f"queries must lie in [0, {rows.numel() - 1}], got {int(chosen.min())} to {int(chosen.max())}"
            )
        return chosen
