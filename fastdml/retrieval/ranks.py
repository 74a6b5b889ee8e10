"""The exact rank of every query's first hit, by counting, in memory linear in the number of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.retrieval.inputs import RetrievalSets, prepare
from fastdml.retrieval.precision import full_precision

QUERY_BLOCK = 512
GALLERY_BLOCK = 2048
# Two similarities this near (in units of the dtype's epsilon, for unit rows) are equal up to the rounding of
# the product, which can depend on where in a block a pair stands.
_ROUNDING_ULPS = 4.0


def first_hit_ranks(
    embeddings: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    self_index: Tensor | None = None,
    normalise: bool = True,
    tie_tolerance: float | None = None,
) -> Tensor:
    """Rank of each query's first correct match: ``1 + #{negatives with S >= S of the best positive}``.

    Ties count against the query, so a model that maps everything to one point gets the worst rank, not the
    best. The query itself is left out by its index, so an exact duplicate of it still counts. One block of
    similarities is all that is ever held; no N x N matrix is.

    Args:
        embeddings: queries [Q, D], any floating dtype. Compared in float32 (never TF32), float64 if given so.
        labels: integer [Q].
        gallery: [G, D], or None: the queries are their own gallery (leave one out).
        gallery_labels: integer [G], with ``gallery``.
        self_index: int [Q], the gallery row that each query itself is, -1 for none (the default with a
            gallery). ``match_indices`` makes it from two lists of ids.
        normalise: compare by cosine (the default) or by the plain inner product.
        tie_tolerance: similarities nearer than this times ``|query| max |gallery row|`` are a tie. None: four
            units in the last place, the rounding of the product itself. 0: only bitwise equal ones.

    Returns:
        int64 [Q], at least 1; 0 where the gallery holds no positive of the query.

    Raises:
        InputError: naming the argument, what it was and what is accepted.
    """
    sets = prepare(embeddings, labels, gallery, gallery_labels, self_index, normalise)
    return count_ranks(sets, tie_tolerance)


def match_indices(query_ids: Tensor, gallery_ids: Tensor) -> Tensor:
    """Position of each query's id in ``gallery_ids`` (int64 [Q]), -1 where it is not there.

    Both are integer vectors of sample ids (row numbers of the data set); gallery ids must be distinct.
    """
    order = torch.argsort(gallery_ids)
    ordered = gallery_ids[order]
    if bool((ordered[1:] == ordered[:-1]).any()):
        raise InputError("gallery_ids must be distinct, got a repeated id")
    if ordered.numel() == 0:
        return torch.full_like(query_ids, -1, dtype=torch.int64)
    position = torch.searchsorted(ordered, query_ids).clamp_(max=ordered.numel() - 1)
    return torch.where(ordered[position] == query_ids, order[position], -1)


def count_ranks(sets: RetrievalSets, tie_tolerance: float | None = None) -> Tensor:
    """``first_hit_ranks`` on prepared sets."""
    if tie_tolerance is not None and not tie_tolerance >= 0:
        raise InputError(f"tie_tolerance must be None or at least 0, got {tie_tolerance}")
    if tie_tolerance is None:
        tie_tolerance = _ROUNDING_ULPS * torch.finfo(sets.queries.dtype).eps

    # Both sides sorted by label: the positives of a block of queries are one range of gallery rows.
    query_order = torch.argsort(sets.query_labels, stable=True)
    gallery_order = torch.argsort(sets.gallery_labels, stable=True)
    gallery = sets.gallery[gallery_order]
    gallery_labels = sets.gallery_labels[gallery_order]
    place = torch.empty_like(gallery_order)
    place[gallery_order] = torch.arange(gallery_order.numel(), device=place.device)
    own = torch.where(sets.self_index >= 0, place[sets.self_index.clamp(min=0)], -1)
    longest = float(gallery.norm(dim=1).max())

    ranks = torch.empty_like(sets.query_labels)
    memory = gallery.new_empty(min(QUERY_BLOCK, query_order.numel()) * min(GALLERY_BLOCK, gallery.shape[0]))
    with full_precision(gallery.device):
        for start in range(0, query_order.numel(), QUERY_BLOCK):
            rows = query_order[start : start + QUERY_BLOCK]
            queries = sets.queries[rows]
            slack = tie_tolerance * longest * queries.norm(dim=1)
            ranks[rows] = _rank_block(
                queries, sets.query_labels[rows], own[rows], slack, gallery, gallery_labels, memory
            )
    return ranks


def _rank_block(
    queries: Tensor,  # [B, D], sorted by label
    labels: Tensor,  # [B]
    own: Tensor,  # [B], row of the sorted gallery, or -1
    slack: Tensor,  # [B]
    gallery: Tensor,  # [G, D], sorted by label
    gallery_labels: Tensor,  # [G]
    memory: Tensor,  # [B * GALLERY_BLOCK], for one block of similarities at a time
) -> Tensor:
    first = int(torch.searchsorted(gallery_labels, labels[:1]))
    last = int(torch.searchsorted(gallery_labels, labels[-1:], right=True))

    def similarities(begin: int, end: int, left_out: Tensor | None) -> Tensor:
        block = memory[: queries.shape[0] * (end - begin)].view(queries.shape[0], end - begin)
        torch.mm(queries, gallery[begin:end].T, out=block)
        if left_out is not None:
            block.masked_fill_(left_out, -torch.inf)
        rows = torch.nonzero((own >= begin) & (own < end)).squeeze(1)
        block[rows, own[rows] - begin] = -torch.inf
        return block

    best = torch.full_like(slack, -torch.inf)  # best positive similarity of each query
    for begin in range(first, last, GALLERY_BLOCK):
        end = min(begin + GALLERY_BLOCK, last)
        other = labels[:, None] != gallery_labels[None, begin:end]
        best = torch.maximum(best, similarities(begin, end, other).amax(dim=1))

    threshold = (best - slack)[:, None]
    ahead = torch.zeros_like(labels)  # negatives that stand before the first hit
    for begin in range(0, gallery.shape[0], GALLERY_BLOCK):
        end = min(begin + GALLERY_BLOCK, gallery.shape[0])
        holds_positives = begin < last and end > first
        same = labels[:, None] == gallery_labels[None, begin:end] if holds_positives else None
        # Ones and zeros in place: a block has too few columns for a float to miscount.
        ahead += similarities(begin, end, same).ge_(threshold).sum(dim=1).to(ahead.dtype)
    return torch.where(best == -torch.inf, 0, ahead + 1)
