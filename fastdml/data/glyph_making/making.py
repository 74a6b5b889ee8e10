"""Make a set of glyphs as a folder: glyphs.json, train.npz, test.npz and NOTICE, all of them or none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import features

from fastdml.data.glyph_making.drawing import Arrays, Report, draw
from fastdml.data.glyph_making.fonts import Source, locate
from fastdml.data.glyph_making.notice import notice
from fastdml.data.glyph_making.pen import LEVELS
from fastdml.data.glyph_making.sets import GlyphSet
from fastdml.errors import InputError


@dataclass(frozen=True)
class Made:
    """A set that was drawn: its sources, its kanji and its halves "train" and "test"."""

    what: GlyphSet
    sources: tuple[Source, ...]
    kanji: str
    splits: Mapping[str, Arrays]


def make(
    what: GlyphSet,
    out: Path,
    fonts: Path | None = None,
    processes: int | None = None,
    report: Report = lambda stage, done, total: None,
) -> Made:
    """Fetch the fonts, draw the set and write it to the new folder `out`.

    Args:
        what: the set.
        out: folder that is missing or empty. It comes into being whole, at the end.
        fonts: folder of .deb packages; missing ones are fetched into it. None: all are fetched, and dropped.
        processes: that draw; None: one a core, at most 16. The result does not depend on it.
        report: told the stage, and how many of how many are done.

    Raises:
        InputError: `out` holds something, or an argument lies outside of what is accepted.
        FontError: fonts cannot be had or cannot be used, see `fonts.locate`.
        OSError: the folder cannot be written; nothing of it is left.
    """
    with new_folder(out) as folder:
        made = collect(what, fonts, processes, report)
        report("writing", 0, 1)
        write_files(made, folder)
        report("writing", 1, 1)
    return made


def collect(
    what: GlyphSet,
    fonts: Path | None = None,
    processes: int | None = None,
    report: Report = lambda stage, done, total: None,
) -> Made:
    """Like `make`, without writing anything but the packages in `fonts`."""
    if processes is not None and processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")
    with tempfile.TemporaryDirectory(prefix="fastdml-glyphs-") as scratch:
        packages = (fonts or Path(scratch) / "packages").resolve()
        unpacked = Path(scratch) / "unpacked"

        def on_package(done: int, total: int) -> None:
            report("unpacking fonts", done, total)

        sources = locate(what.faces, packages, unpacked, on_package)
        kanji, splits = draw(what, sources, processes or min(os.cpu_count() or 1, 16), report)
    return Made(what, tuple(sources), kanji, splits)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` where the block ends well, and vanishes where it does not.

    Raises:
        InputError: `out` is a file or a folder with something in it.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"out must be a new or empty folder, got {out}, which holds something already")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.making-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that bore this number and was killed
    beside.mkdir()
    try:
        yield beside
        _sync(beside)
        beside.rename(out)
        _sync(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_files(made: Made, folder: Path) -> None:
    """Write the four files, each down to the disk; glyphs.json, without which nothing is read, last."""
    for name, arrays in made.splits.items():
        path = folder / f"{name}.npz"
        np.savez_compressed(path, images=arrays.images, label=arrays.label, font=arrays.font)
        _sync(path)
    text = json.dumps(_table(made), ensure_ascii=False, indent=1)
    for path, content in (
        (folder / "NOTICE", notice(made.sources, made.what.side)),
        (folder / "glyphs.json", text + "\n"),
    ):
        path.write_text(content, encoding="utf-8")
        _sync(path)


def _table(made: Made) -> dict[str, Any]:
    """What glyphs.json holds."""
    return {
        "format": 1,
        "side": made.what.side,
        "levels": LEVELS,
        "seed": made.what.seed,
        "made_with": {"pillow": PIL.__version__, "freetype": features.version("freetype2")},
        "images_sha256": {
            name: hashlib.sha256(arrays.images.tobytes()).hexdigest() for name, arrays in made.splits.items()
        },
        "kanji": made.kanji,
        "fonts": _fonts(made.sources),
    }


def _fonts(sources: Sequence[Source]) -> list[dict[str, str]]:
    return [
        {
            "family": source.face.family,
            "file": source.face.file,
            "package": source.face.package,
            "version": source.version,
            "licence": source.licence,
            "copyright": " ".join(source.copyright.split()),
            "sha256": source.sha256,
            "role": source.face.role,
        }
        for source in sources
    ]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
