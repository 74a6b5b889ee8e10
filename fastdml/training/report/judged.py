"""Gallery images of a query as the evaluation ranks them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.data import Split
from fastdml.training.evaluation import SplitRetrieval


@dataclass(frozen=True)
class Hit:
    """A gallery image: its row of the split, its cosine similarity with the query, whether it is right."""

    row: int
    similarity: float
    right: bool


def nearest(found: SplitRetrieval, split: Split, queries: Tensor, k: int) -> list[list[Hit]]:
    """The k nearest gallery images of the queries at positions int64 [n], nearest first.

    Images of a query's class under its camera are left out, as the evaluation leaves them out.
    """
    left_out = [_same_camera(found, split, query) for query in queries.tolist()]
    surplus = max((int(rows.numel()) for rows in left_out), default=0)
    most = min(k + surplus, found.gallery_rows.numel())
    positions, similarities = found.result.neighbours(queries, most)
    hits = []
    for query, row, values, without in zip(
        queries.tolist(), positions.tolist(), similarities.tolist(), left_out, strict=True
    ):
        label, hidden = split.labels[found.query_rows[query]], set(without.tolist())
        rows = [
            (int(found.gallery_rows[at]), value) for at, value in zip(row, values, strict=True) if at >= 0
        ]
        hits.append(
            [Hit(at, value, bool(split.labels[at] == label)) for at, value in rows if at not in hidden][:k]
        )
    return hits


def first_right(found: SplitRetrieval, split: Split, query: int) -> Hit:
    """The right gallery image nearest to the query at a position; there must be one."""
    row = int(found.query_rows[query])
    rows = found.gallery_rows.cpu()
    right = (split.labels[rows] == split.labels[row]) & (rows != row)
    if split.cameras is not None:
        right &= split.cameras[rows] != split.cameras[row]
    places = torch.nonzero(right).squeeze(1)
    sets = found.result.sets
    device = sets.gallery_rows.device
    candidates = sets.compared(sets.gallery_rows[places.to(device)])
    similarity = candidates @ sets.compared(sets.query_rows[query : query + 1])[0]
    best = int(similarity.argmax())
    return Hit(int(rows[places[best]]), float(similarity[best]), True)


def _same_camera(found: SplitRetrieval, split: Split, query: int) -> Tensor:
    """Rows of the split in the gallery that show the query's class under its camera, int64."""
    rows = found.gallery_rows.cpu()
    if split.cameras is None:
        return rows[:0]
    row = found.query_rows[query]
    same = (split.labels[rows] == split.labels[row]) & (split.cameras[rows] == split.cameras[row])
    return rows[same]
