"""Pictures: what the task is, and what the network finds."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import torch
from PIL import Image
from torch import Tensor

from fastdml.data import Split
from fastdml.training.evaluation import SplitRetrieval

_SHOWN = 8
_EXAMPLES = 16


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
        parts.append(_rows(chosen, found, split, pictures))
        parts.append("</div>")
    return "".join(parts)


def _rows(queries: Tensor, found: SplitRetrieval, split: Split, pictures: Pictures) -> str:
    indices, similarities = found.result.neighbours(queries, _SHOWN)
    parts = []
    for query, hits, values in zip(queries.tolist(), indices.tolist(), similarities.tolist(), strict=True):
        row = int(found.query_rows[query])
        cells = [
            f'<figure class="query">{pictures.image(row)}<figcaption>query</figcaption></figure>'
            '<div class="arrow" aria-hidden="true">→</div>'
        ]
        for hit, value in zip(hits, values, strict=True):
            if hit < 0:
                continue
            other = int(found.gallery_rows[hit])
            right = bool(split.labels[other] == split.labels[row])
            kind, mark, word = ("right", "✓", "right") if right else ("wrong", "✗", "wrong")
            cells.append(
                f'<figure class="hit {kind}">{pictures.image(other)}'
                f'<figcaption title="{word}, cosine similarity {value:.3f}">{mark} {value:.2f}</figcaption>'
                "</figure>"
            )
        parts.append(f'<div class="hits">{"".join(cells)}</div>')
    return "".join(parts)


def example_strip(split: Split, rows: Tensor) -> str:
    """A row of single images."""
    pictures = Pictures(split)
    figures = "".join(f"<figure>{pictures.image(int(row))}</figure>" for row in rows[:_EXAMPLES])
    return f'<div class="strip">{figures}</div>'


def class_rows(split: Split, position: int, keep: Tensor) -> Tensor:
    """Rows of the split that show its ``position``-th class and are kept, in order."""
    label = torch.unique(split.labels)[position]
    return torch.nonzero((split.labels == label) & keep).squeeze(1)


class Pictures:
    """Images of a split as <img> elements with their data inside.

    Grey images that are mostly dark are light strokes on black; they are shown as ink on paper.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        sample = split.images[torch.arange(min(len(split), 256))]
        self._inverted = sample.shape[1] == 1 and float(sample.float().mean()) < 100.0

    def image(self, row: int) -> str:
        """The image of a row, described by its class and domain."""
        split = self._split
        pixels = split.images[torch.tensor([row])][0]
        if self._inverted:
            pixels = 255 - pixels
        text = split.class_names[int(split.labels[row])]
        if split.domains is not None:
            text += f", {split.domain_names[int(split.domains[row])]}"
        description = escape(text, quote=True)
        return f'<img class="glyph" src="{png_data(pixels)}" alt="{description}" title="{description}">'


def png_data(pixels: Tensor) -> str:
    """uint8 [C, H, W] with one or three channels as a data URI."""
    array = pixels.cpu().numpy()
    picture = Image.fromarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
