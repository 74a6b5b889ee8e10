"""Exact retrieval metrics by rank counting: no sort of the gallery, no top-k, no N x N matrix."""

from fastdml.retrieval.clusters import Clustering, MissingPackageError
from fastdml.retrieval.evaluation import evaluate, recall_at_k
from fastdml.retrieval.metrics import QueryScores
from fastdml.retrieval.neighbours import nearest_neighbours
from fastdml.retrieval.result import RetrievalResult

__all__ = [
    "Clustering",
    "MissingPackageError",
    "QueryScores",
    "RetrievalResult",
    "evaluate",
    "nearest_neighbours",
    "recall_at_k",
]
