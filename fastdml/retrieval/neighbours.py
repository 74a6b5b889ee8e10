"""The nearest gallery rows of chosen queries, for looking at."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.retrieval.inputs import RetrievalSets, prepare
from fastdml.retrieval.precision import full_precision

QUERY_BLOCK = 512
GALLERY_BLOCK = 2048


def nearest_neighbours(
    embeddings: Tensor,
    labels: Tensor,
    k: int,
    *,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    normalise: bool = True,
) -> tuple[Tensor, Tensor]:
    """The k nearest gallery rows of each query, the query itself left out; arguments as `evaluate`.

    Returns:
        (positions in the gallery int64 [Q, k], similarities [Q, k]), nearest first. Where the gallery holds
        fewer than k others, the surplus entries are position -1 and similarity -infinity.

    Raises:
        InputError: naming the argument, what it was and what is accepted.
    """
    sets = prepare(embeddings, labels, query, gallery, None, normalise)
    return search(sets, sets.query_rows, k)


def search(sets: RetrievalSets, query_rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``nearest_neighbours`` of some rows of prepared sets."""
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    if query_rows.numel() == 0:
        return query_rows.new_empty((0, k)), sets.embeddings.new_empty((0, k), dtype=sets.dtype)
    with full_precision(sets.embeddings.device):
        gallery = sets.compared(sets.gallery_rows)
        blocks = [_search_block(sets, gallery, rows, k) for rows in query_rows.split(QUERY_BLOCK)]
    return torch.cat([indices for indices, _ in blocks]), torch.cat([values for _, values in blocks])


def _search_block(sets: RetrievalSets, gallery: Tensor, query_rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    queries, count = sets.compared(query_rows), query_rows.numel()
    values = queries.new_full((count, k), -torch.inf)
    indices = torch.full((count, k), -1, dtype=torch.int64, device=queries.device)
    for begin in range(0, gallery.shape[0], GALLERY_BLOCK):
        rows = sets.gallery_rows[begin : begin + GALLERY_BLOCK]
        similarity = queries @ gallery[begin : begin + GALLERY_BLOCK].T
        similarity.masked_fill_(rows == query_rows[:, None], -torch.inf)
        columns = torch.arange(begin, begin + rows.numel(), device=queries.device).expand(count, -1)
        values, chosen = torch.cat([values, similarity], dim=1).topk(k, dim=1)
        indices = torch.cat([indices, columns], dim=1).gather(1, chosen)
    return indices.masked_fill(values == -torch.inf, -1), values
