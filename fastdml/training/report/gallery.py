"""Pictures: what the task is, what the network finds, and what it does not find."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from fastdml.data import Split
from fastdml.training.evaluation import SplitRetrieval
from fastdml.training.report.judged import Hit, first_right, nearest
from fastdml.training.report.pictures import Pictures

_SHOWN = 8
_EXAMPLES = 16
_WORST = 10  # queries
_WRONG = 7  # images before the right one


@dataclass(frozen=True)
class _Group:
    """Queries of one kind: which first-hit ranks belong to it, and how many of them are shown."""

    title: str
    about: str
    member: Callable[[Tensor], Tensor]
    count: int


_GROUPS = (
    _Group("Found at once", "the nearest image is right", lambda rank: rank == 1, 5),
    _Group(
        "Found a little later", "the first right image ranks 2 to 8", lambda rank: (rank > 1) & (rank <= 8), 4
    ),
    _Group("Not found", "nothing right among the first eight", lambda rank: rank > 8, 3),
)


def retrieval_gallery(found: SplitRetrieval, split: Split, seed: int) -> str:
    """Queries of each group, drawn at random with the run's seed, and their nearest gallery images."""
    ranks = found.result.first_hit_rank.cpu()
    generator = torch.Generator().manual_seed(seed)
    pictures = Pictures(split)
    parts = []
    for group in _GROUPS:
        members = torch.nonzero(group.member(ranks)).squeeze(1)
        share = 100 * members.numel() / max(found.result.queries, 1)
        parts.append(
            f'<div class="group"><h3>{group.title}</h3><p>{share:.1f} % of the queries: {group.about}.</p>'
        )
        chosen = members[torch.randperm(members.numel(), generator=generator)[: group.count]]
        if chosen.numel() == 0:
            parts.append("<p>There are none.</p>")
        for query, hits in zip(chosen.tolist(), nearest(found, split, chosen, _SHOWN), strict=True):
            parts.append(_row(pictures, int(found.query_rows[query]), "query", map(_Tile, hits)))
        parts.append("</div>")
    return "".join(parts)


def worst_queries(found: SplitRetrieval, split: Split) -> str:
    """Queries whose first right image ranks the lowest: the wrong ones before it, then that image.

    Empty where every query finds a right image first.
    """
    ranks = found.result.first_hit_rank.cpu()
    chosen = torch.argsort(ranks, descending=True, stable=True)[:_WORST]
    chosen = chosen[ranks[chosen] > 1]
    pictures = Pictures(split)
    rows = []
    for query, hits in zip(chosen.tolist(), nearest(found, split, chosen, 2 * _WRONG), strict=True):
        rank, row = int(ranks[query]), int(found.query_rows[query])
        tiles = [_Tile(hit) for hit in hits if not hit.right][: min(_WRONG, rank - 1)]
        tiles.append(_Tile(first_right(found, split, query), f"rank {rank}"))
        rows.append(_row(pictures, row, split.class_names[int(split.labels[row])], tiles))
    return "".join(rows)


@dataclass(frozen=True)
class _Tile:
    """A gallery image in a row; ``rank`` is written for one that does not follow the image before it."""

    hit: Hit
    rank: str = ""

    def figure(self, pictures: Pictures) -> str:
        hit = self.hit
        kind, mark, word = ("right", "✓", "right") if hit.right else ("wrong", "✗", "wrong")
        text = self.rank or f"{hit.similarity:.2f}"
        return (
            f'<figure class="hit {kind}{" later" if self.rank else ""}">{pictures.image(hit.row)}'
            f'<figcaption title="{word}, cosine similarity {hit.similarity:.3f}">{mark} {text}</figcaption>'
            "</figure>"
        )


def _row(pictures: Pictures, row: int, name: str, tiles: Iterable[_Tile]) -> str:
    return (
        f'<div class="hits"><figure class="query">{pictures.image(row)}'
        f'<figcaption title="{escape(name, quote=True)}">{escape(name)}</figcaption></figure>'
        '<div class="arrow" aria-hidden="true">→</div>'
        f"{''.join(tile.figure(pictures) for tile in tiles)}</div>"
    )


def example_strip(split: Split, rows: Tensor) -> str:
    """A row of single images."""
    pictures = Pictures(split)
    figures = "".join(f"<figure>{pictures.image(int(row))}</figure>" for row in rows[:_EXAMPLES])
    return f'<div class="strip">{figures}</div>'


def class_rows(split: Split, keep: Tensor) -> Tensor:
    """Rows of the split that show the first class of those that are kept, in order; kept or not."""
    labels = split.labels[keep]
    return torch.nonzero(split.labels == labels.min()).squeeze(1)
