"""Embeddings as a file of features, which is a data set itself: layout "features"."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdml.data import Split
from fastdml.data.images import ImageFiles
from fastdml.errors import InputError
from fastdml.training.checkpoint import save_tensors, write_atomically
from fastdml.training.evaluation import Embedded

ENDINGS = (".safetensors", ".npz")


@dataclass(frozen=True)
class EmbeddedSplit:
    """A split and its embeddings.

    Attributes:
        split: whose labels, queries, gallery and cameras are written.
        embedded: images that could not be read are left out.
        is_test: whether it is the half that training does not see.
    """

    split: Split
    embedded: Embedded
    is_test: bool


def check_ending(path: Path) -> None:
    """Raises InputError unless the file's ending is one of a feature file."""
    if path.suffix not in ENDINGS:
        raise InputError(f"out must end in {' or '.join(ENDINGS)}, got {path.name!r}")


def write_features(path: Path, parts: Sequence[EmbeddedSplit]) -> int:
    """Write the embeddings of one or both splits, atomically, and tell how many.

    The columns: features float32 [N, F], labels int64, split uint8 (0 train, 1 test), query and gallery bool,
    camera int64 where the data set has cameras. Where the images are files, ``<path>.paths.txt`` has the path
    of each row.

    Raises:
        InputError: the ending is another one.
        OSError: the file cannot be written.
    """
    check_ending(path)
    columns = _columns(parts)
    sources = _sources(parts)
    if sources is not None:
        write_atomically(
            path.with_name(f"{path.name}.paths.txt"), "".join(f"{one}\n" for one in sources).encode()
        )
    if path.suffix == ".safetensors":
        save_tensors(path, columns)
    else:
        packed = io.BytesIO()
        np.savez(packed, **{name: column.numpy() for name, column in columns.items()})  # type: ignore[arg-type]
        write_atomically(path, packed.getvalue())
    return len(columns["labels"])


def _columns(parts: Sequence[EmbeddedSplit]) -> dict[str, Tensor]:
    found = []
    for part in parts:
        split, kept = part.split, part.embedded.readable
        columns = {
            "features": part.embedded.embeddings[kept],
            "labels": split.labels[kept],
            "split": torch.full((int(kept.sum()),), part.is_test, dtype=torch.uint8),
            "query": split.is_query[kept],
            "gallery": split.is_gallery[kept],
        }
        if split.cameras is not None:
            columns["camera"] = split.cameras[kept]
        found.append(columns)
    shared = [name for name in found[0] if all(name in columns for columns in found)]
    return {name: torch.cat([columns[name] for columns in found]) for name in shared}


def _sources(parts: Sequence[EmbeddedSplit]) -> list[str] | None:
    """The path of every row's image; None where not all are files."""
    paths: list[str] = []
    for part in parts:
        images = part.split.images
        if not isinstance(images, ImageFiles):
            return None
        paths += [images.paths[row] for row in part.embedded.readable.nonzero().flatten().tolist()]
    return paths
