"""Reads a folder of glyphs, and refuses one that is damaged or foreign."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from numpy.typing import NDArray

from fastdml.data.split import Split
from fastdml.errors import InputError

QUERY_ONLY = "query-only"
FORMAT = 1
SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class Font:
    """A typeface of the data set and where it came from.

    Attributes:
        family: name of the typeface; the split's `domain_names` are these, in the same order.
        file: file in the Debian package.
        package: Debian package.
        version: version of that package.
        licence: "OFL-1.1", "Apache-2.0", "MIT", "BSD-3-Clause" or "public-domain".
        copyright: holders, as the package states them.
        sha256: of the font file, hexadecimal.
        role: "train+gallery", or "query-only" for typefaces absent from training and gallery.
    """

    family: str
    file: str
    package: str
    version: str
    licence: str
    copyright: str
    sha256: str
    role: str


@dataclass(frozen=True)
class Table:
    """What glyphs.json says: the classes' names, the typefaces, the pictures' side and SHA-256 by split."""

    kanji: str
    fonts: tuple[Font, ...]
    side: int
    images_sha256: dict[str, str]


def read_table(folder: Path) -> Table:
    """The folder's glyphs.json.

    Raises:
        InputError: there is none, or it is not one of a set of glyphs.
    """
    path = folder / "glyphs.json"
    if not path.is_file():
        raise InputError(
            f"{folder} must be a folder made by `fastdml data make`, but it holds no glyphs.json"
        )
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {table['format']!r}")
        fonts = tuple(Font(**row) for row in table["fonts"])
        kanji, side, digests = table["kanji"], table["side"], table["images_sha256"]
        for name, value, kind in (
            ("kanji", kanji, str),
            ("side", side, int),
            ("images_sha256", digests, dict),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}")
    except KeyError as error:
        raise InputError(f"{path} is not the table of a set of glyphs: it lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is not the table of a set of glyphs: {error}") from error
    return Table(kanji, fonts, side, digests)


def read_split(folder: Path, split: SplitName, name: str) -> Split:
    """One half of the set in `folder`, under `name`; see `fastdml.data.glyphs.load_folder`."""
    if split not in get_args(SplitName):
        raise InputError(f"split must be 'train' or 'test', got {split!r}")
    table = read_table(folder)
    path = folder / f"{split}.npz"
    images, labels, domains = _read_columns(path)
    _check(path, split, table, images, labels, domains)
    in_gallery = torch.tensor([font.role != QUERY_ONLY for font in table.fonts])
    typefaces = torch.from_numpy(domains.astype(np.int64))
    return Split(
        name=name,
        images=torch.from_numpy(images).unsqueeze(1),
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=tuple(table.kanji),
        is_query=torch.ones(len(labels), dtype=torch.bool),
        is_gallery=in_gallery[typefaces],
        domains=typefaces,
        domain_names=tuple(font.family for font in table.fonts),
    )


def _read_columns(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """images, label and font as they are stored."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["images"], stored["label"], stored["font"]
    except FileNotFoundError as error:
        raise InputError(f"{path.parent} is not whole: {path.name} is missing") from error
    except KeyError as error:
        raise InputError(f"{path} must hold the arrays images, label and font: {error.args[0]}") from error
    except (AttributeError, BadZipFile, EOFError, OSError, TypeError, ValueError, ZlibError) as error:
        raise InputError(f"{path} is damaged and cannot be read: {error}") from error


def _check(
    path: Path, split: str, table: Table, images: NDArray[Any], labels: NDArray[Any], domains: NDArray[Any]
) -> None:
    size = len(labels) if labels.ndim == 1 else 0
    if images.dtype != np.uint8 or images.shape != (size, table.side, table.side) or size == 0:
        expected = f"uint8 [{size or 'N'}, {table.side}, {table.side}]"
        raise InputError(f"{path}: images must be {expected}, got {images.dtype} {list(images.shape)}")
    if hashlib.sha256(images.tobytes()).hexdigest() != table.images_sha256.get(split):
        raise InputError(f"{path} is damaged: its images are not those that glyphs.json names")
    half = len(table.kanji) // 2
    first, last = (0, half) if split == "train" else (half, len(table.kanji))
    if not np.array_equal(np.unique(labels), np.arange(first, last)):
        raise InputError(f"{path}: label must be each of {first} to {last - 1}, the classes of {split}")
    if domains.shape != (size,) or domains.dtype.kind != "u" or domains.max() >= len(table.fonts):
        raise InputError(f"{path}: font must be {size} unsigned indices into {len(table.fonts)} typefaces")
