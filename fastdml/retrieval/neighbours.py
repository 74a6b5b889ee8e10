"""The nearest gallery rows of chosen queries, for looking at."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.retrieval.inputs import RetrievalSets, prepare
from fastdml.retrieval.precision import full_precision
from fastdml.retrieval.ranks import GALLERY_BLOCK, QUERY_BLOCK


def nearest_neighbours(
    embeddings: Tensor,
    labels: Tensor,
    k: int,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    self_index: Tensor | None = None,
    normalise: bool = True,
) -> tuple[Tensor, Tensor]:
    """The k nearest gallery rows of each query, the query itself left out; arguments as `first_hit_ranks`.

    Returns:
        (indices int64 [Q, k], similarities [Q, k]), nearest first. Where the gallery holds fewer than k
        others, the surplus entries are index -1 and similarity -infinity.
    """
    return search(prepare(embeddings, labels, gallery, gallery_labels, self_index, normalise), k)


def search(sets: RetrievalSets, k: int) -> tuple[Tensor, Tensor]:
    """``nearest_neighbours`` on prepared sets."""
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    with full_precision(sets.queries.device):
        blocks = [
            _search_block(sets, start, min(start + QUERY_BLOCK, sets.queries.shape[0]), k)
            for start in range(0, sets.queries.shape[0], QUERY_BLOCK)
        ]
    return torch.cat([indices for indices, _ in blocks]), torch.cat([values for _, values in blocks])


def _search_block(sets: RetrievalSets, start: int, stop: int, k: int) -> tuple[Tensor, Tensor]:
    queries, own = sets.queries[start:stop], sets.self_index[start:stop]
    values = queries.new_full((stop - start, k), -torch.inf)
    indices = torch.full((stop - start, k), -1, dtype=torch.int64, device=queries.device)
    for begin in range(0, sets.gallery.shape[0], GALLERY_BLOCK):
        end = min(begin + GALLERY_BLOCK, sets.gallery.shape[0])
        similarity = queries @ sets.gallery[begin:end].T
        rows = torch.nonzero((own >= begin) & (own < end)).squeeze(1)
        similarity[rows, own[rows] - begin] = -torch.inf
        columns = torch.arange(begin, end, device=queries.device).expand(stop - start, -1)
        merged = torch.cat([values, similarity], dim=1)
        values, chosen = merged.topk(k, dim=1)
        indices = torch.cat([indices, columns], dim=1).gather(1, chosen)
    return indices.masked_fill(values == -torch.inf, -1), values
