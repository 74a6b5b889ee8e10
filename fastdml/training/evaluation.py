"""Retrieval on a split of a data set: pixels or a network's embeddings, queries against gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastdml.data import Split
from fastdml.data.loading import load_chunks
from fastdml.data.split import as_inputs
from fastdml.retrieval import RetrievalResult, evaluate
from fastdml.training.large_step import PRECISIONS
from fastdml.training.processes import Processes
from fastdml.training.views import Views

KS = (1, 2, 4, 8)
_EMBED_BATCH = 256
_MOST_WORK = 1 << 38  # products that comparing images as they are may take: seconds


@dataclass(frozen=True)
class SplitRetrieval:
    """An evaluation of a split, with the row of the split that each query and gallery entry is.

    query_rows int64 [Q] and gallery_rows int64 [G] index the split's images.
    """

    result: RetrievalResult
    query_rows: Tensor
    gallery_rows: Tensor


@dataclass(frozen=True)
class Lens:
    """How images reach a network that is judged.

    Attributes:
        views: what it is shown of them.
        workers: processes that read images from files.
        precision: one of `fastdml.training.large_step.PRECISIONS`.
        processes: that share the work; None: this one alone.
        on_images: told how many images of how many are embedded.
        on_skip: told of each image file that cannot be read and is left out; None: it is warned of.
    """

    views: Views = field(default_factory=Views)
    workers: int = 0
    precision: str = "fp32"
    processes: Processes | None = None
    on_images: Callable[[int, int], None] | None = None
    on_skip: Callable[[Path], None] | None = None


class Embedded(NamedTuple):
    """The embeddings of a split.

    ``embeddings`` float32 [N, D] on the CPU, ``readable`` bool [N]: whether the image could be read; the
    embeddings of others are 0.
    """

    embeddings: Tensor
    readable: Tensor


def embed(model: nn.Module, split: Split, device: torch.device) -> Tensor:
    """Embeddings float32 [N, D] of a split's images in evaluation mode, on the CPU."""
    return embed_with(Lens(), model, split, device).embeddings


@torch.inference_mode()
def embed_with(lens: Lens, model: nn.Module, split: Split, device: torch.device) -> Embedded:
    """The embeddings of a split; every process of the lens must call it, and all get all."""
    processes = lens.processes or Processes(device)
    parts = torch.arange(len(split)).split(_EMBED_BATCH)
    own = processes.share(len(parts))
    dtype = PRECISIONS[lens.precision]
    found: list[tuple[Tensor, Tensor]] = []
    done = 0
    was_training = model.training
    model.eval()
    try:
        pin = device.type == "cuda"
        with load_chunks(split, (parts[i] for i in own), lens.workers, pin, lens.on_skip) as chunks:
            for chunk in chunks:
                with nullcontext() if dtype is None else torch.autocast(device.type, dtype):
                    embeddings = model(lens.views.of_test(chunk.images, device))
                found.append((chunk.rows, embeddings.float().cpu()))
                done += _EMBED_BATCH
                if lens.on_images is not None:
                    lens.on_images(min(done, len(split)), len(split))
    finally:
        model.train(was_training)
    rows = processes.gathered(_joined([rows for rows, _ in found], torch.zeros(0, dtype=torch.int64)))
    width = int(processes.greatest(found[0][1].shape[1] if found else 0)[0])
    values = processes.gathered(_joined([values for _, values in found], torch.zeros(0, width)))
    readable = torch.zeros(len(split), dtype=torch.bool)
    readable[rows] = True
    everything = torch.zeros(len(split), width)
    everything[rows] = values
    return Embedded(everything, readable)


def can_compare_pixels(split: Split) -> bool:
    """Whether the images are in memory, and few and small enough to be compared as they are."""
    pairs = int(split.is_query.sum()) * int(split.is_gallery.sum())
    return isinstance(split.images, Tensor) and pairs * split.images[0].numel() <= _MOST_WORK


def raw_name(split: Split) -> str:
    """What `raw_pixels` compares: "raw pixels", or "raw features" of a split of features."""
    return "raw features" if isinstance(split.images, Tensor) and split.images.ndim == 2 else "raw pixels"


def raw_pixels(split: Split) -> Tensor:
    """Images as vectors float32 [N, C H W], or features: what retrieval is without any learning."""
    return as_inputs(split.images[torch.arange(len(split))]).flatten(1)


def retrieve(
    embeddings: Tensor, split: Split, ks: Sequence[int] = KS, readable: Tensor | None = None
) -> SplitRetrieval:
    """Recall@K and the like of the split's queries against its gallery; a query never finds itself.

    Args:
        embeddings: [N, D].
        split: where it has cameras, what the query's own camera saw of its class is left out.
        ks: the K of Recall@K.
        readable: bool [N]: the images that take part; None: all.
    """
    is_query, is_gallery = split.is_query, split.is_gallery
    if readable is not None:
        is_query, is_gallery = is_query & readable, is_gallery & readable
    query_rows = torch.nonzero(is_query).squeeze(1)
    gallery_rows = torch.nonzero(is_gallery).squeeze(1)
    result = evaluate(embeddings, split.labels, ks, query=is_query, gallery=is_gallery, cameras=split.cameras)
    return SplitRetrieval(result, query_rows, gallery_rows)


def _joined(parts: Sequence[Tensor], nothing: Tensor) -> Tensor:
    return torch.cat(list(parts)) if parts else nothing
