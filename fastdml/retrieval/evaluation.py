"""Evaluates embeddings as a search engine: each query against a gallery, from the exact ranks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastdml.errors import InputError
from fastdml.retrieval.clusters import cluster
from fastdml.retrieval.inputs import prepare
from fastdml.retrieval.metrics import score
from fastdml.retrieval.result import RetrievalResult


def evaluate(
    embeddings: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 10, 100, 1000),
    *,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    cameras: Tensor | None = None,
    normalise: bool = True,
    tie_tolerance: float | None = None,
    clusters: bool = False,
    seed: int = 0,
) -> RetrievalResult:
    """Score a retrieval: every query against the gallery, the query itself left out by its row.

    A positive's rank is 1 + the number of negatives that are at least as similar + the number of positives
    before it. So ties count against the query: a model that maps everything to one point gets the worst
    ranks. An exact duplicate of the query still counts. Queries without a positive in the gallery cannot be
    answered: they are left out of all means, and counted. No N x N matrix is ever held.

    Args:
        embeddings: [N, D], any floating dtype. Compared in float32 (never TF32), float64 if given so.
        labels: integer [N].
        ks: the K of Recall@K, each at least 1.
        query: the rows that are queries, a mask (bool [N]) or row numbers (integer [Q]). None: all.
        gallery: the rows that are searched, in the same way; each at most once. None: all.
        cameras: integer [N], for re-identification: gallery rows of the query's label and camera are left
            out, neither positive nor negative.
        normalise: compare by cosine (the default) or by the plain inner product.
        tie_tolerance: similarities nearer than this times ``|query| max |gallery row|`` are a tie. None: four
            units in the last place, beyond 32 dimensions times ``sqrt(D / 32)``: the rounding of the product
            itself. 0: only bitwise equal ones.
        clusters: also NMI and AMI of a k-means of the queries with as many clusters as classes, for which
            faiss and scikit-learn must be installed.
        seed: of k-means.

    Returns:
        The result; its print is a table. Positions of queries count within ``query``, positions of gallery
        rows within ``gallery``, in the order of the mask or of the row numbers.

    Raises:
        InputError: naming the argument, what it was and what is accepted.
        MissingPackageError: ``clusters`` without the packages that it needs.

    >>> print(evaluate(torch.eye(4), torch.tensor([0, 0, 1, 1]), ks=(1, 3)))  # all ties: found last
    Recall@1       0.00 %
    Recall@3     100.00 %
    R-precision    0.00 %
    MAP@R          0.00 %
    mAP           33.33 %
    4 queries, gallery of 4
    """
    wanted = _check_ks(ks)
    sets = prepare(embeddings, labels, query, gallery, cameras, normalise)
    scores = score(sets, tie_tolerance)
    scored = scores.first_hit_rank > 0
    ranks = scores.first_hit_rank[scored].double()
    return RetrievalResult(
        recall={k: float((ranks <= k).double().mean()) for k in wanted},  # the mean of nothing is NaN
        r_precision=float(scores.r_precision[scored].mean()),
        map_at_r=float(scores.map_at_r[scored].mean()),
        mean_average_precision=float(scores.average_precision[scored].mean()),
        per_query=scores,
        clustering=cluster(sets, seed) if clusters else None,
        sets=sets,
        tie_tolerance=tie_tolerance,
    )


def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
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
        ks,
        query=query,
        gallery=gallery,
        normalise=normalise,
        tie_tolerance=tie_tolerance,
    ).recall


def _check_ks(ks: Sequence[int]) -> list[int]:
    wanted = [int(k) for k in ks]
    if not wanted or min(wanted) < 1 or any(k != given for k, given in zip(wanted, ks, strict=True)):
        raise InputError(f"ks must be whole numbers of at least 1, and at least one of them, got {list(ks)}")
    return wanted
