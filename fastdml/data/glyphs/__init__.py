"""The built-in data set: 400 kanji in 20 typefaces, 32 x 32 grey; nothing to download.

Kanji 0 to 199 are for training, 200 to 399 for testing, as in CUB-200-2011 the classes do not overlap.
Training images are plain drawings in 16 typefaces. Test images were turned, sheared, scaled, shifted, blurred
and paled with a fixed seed when the files were made, in the same 16 typefaces and 4 brush and cursive ones.
All test images are queries; the gallery holds the 16 typefaces only, so what is searched for in brush script
has to be found in print.

NOTICE, beside this file, names the typefaces' authors and says what their licences ask for;
tools/make_glyphs.py made the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np
import torch

from fastdml.data.split import Split

QUERY_ONLY = "query-only"
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


def load(split: SplitName = "train") -> Split:
    """Read one half of the data set.

    Args:
        split: "train" (3,200 images of 200 classes) or "test" (4,000 images of 200 other classes).

    Returns:
        A `Split` with images uint8 [N, 1, 32, 32], 0 for paper and 255 for ink; labels 0 to 199 in train and
        200 to 399 in test, named by their kanji; `domains` is the typeface, an index into `fonts()`. In train
        every image is query and gallery.

    Raises:
        ValueError: `split` is neither name.
    """
    if split not in get_args(SplitName):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    with (files(__name__) / f"{split}.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        images = torch.from_numpy(stored["images"]).unsqueeze(1)
        labels = torch.from_numpy(stored["label"].astype(np.int64))
        domains = torch.from_numpy(stored["font"].astype(np.int64))
    typefaces = fonts()
    in_gallery = torch.tensor([font.role != QUERY_ONLY for font in typefaces])
    return Split(
        name=f"glyphs/{split}",
        images=images,
        labels=labels,
        class_names=tuple(_table()["kanji"]),
        is_query=torch.ones(len(labels), dtype=torch.bool),
        is_gallery=in_gallery[domains],
        domains=domains,
        domain_names=tuple(font.family for font in typefaces),
    )


def fonts() -> tuple[Font, ...]:
    """The typefaces, in the order of the `domains` of `load`."""
    return tuple(Font(**row) for row in _table()["fonts"])


def notice() -> str:
    """The text of NOTICE: authors, licences and what they ask for."""
    return (files(__name__) / "NOTICE").read_text(encoding="utf-8")


def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((files(__name__) / "glyphs.json").read_text(encoding="utf-8"))
    return table
