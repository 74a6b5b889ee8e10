"""Exact retrieval metrics by rank counting: no sort of the gallery, no top-k, no N x N matrix."""

from fastdml.retrieval.metrics import RetrievalResult, evaluate, recall_at_k
from fastdml.retrieval.neighbours import nearest_neighbours
from fastdml.retrieval.ranks import first_hit_ranks, match_indices

__all__ = [
    "RetrievalResult",
    "evaluate",
    "first_hit_ranks",
    "match_indices",
    "nearest_neighbours",
    "recall_at_k",
]
