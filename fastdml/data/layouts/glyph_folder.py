"""Glyphs that `fastdml data make` has drawn."""

from __future__ import annotations

from pathlib import Path

from fastdml.data import glyphs
from fastdml.data.dataset import Dataset
from fastdml.data.layouts.layout import Layout, Reading

_FILES = ("glyphs.json", "train.npz", "test.npz")


def recognises(path: Path) -> bool:
    """Whether the three files are there."""
    return all((path / name).is_file() for name in _FILES)


def load(path: Path, reading: Reading) -> Dataset:
    """Both halves in memory, in the size they were drawn in whatever `reading` says.

    Raises:
        InputError: a file is damaged.
    """
    train, test = glyphs.load_folder(path, "train"), glyphs.load_folder(path, "test")
    return Dataset(path.name, "glyphs", train, test)


LAYOUT = Layout("glyphs", "glyphs made by `fastdml data make`", ", ".join(_FILES), recognises, load)
