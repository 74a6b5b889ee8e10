"""A folder of class folders, or two of them named train and test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.layouts.records import Listing, Record, by_name, first_half

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_PARTS = ("train", "test")


def recognises(path: Path) -> bool:
    """Whether at least one folder in it, or in its train/ and test/, holds an image."""
    if not path.is_dir():
        return False
    roots = [path / part for part in _PARTS] if _is_divided(path) else [path]
    return any(next(_images(root, root / name), None) for root in roots for name in _folders(root))


def load(path: Path, reading: Reading) -> Dataset:
    """As train/ and test/ divide it; without them the first half of the classes by name trains.

    Of an odd number of classes the middle one trains too.

    Raises:
        InputError: there is nothing to divide it by and fewer than two classes.
    """
    if _is_divided(path):
        train, test = (_records(path, part) for part in _PARTS)
        classes = by_name(record.label for record in (*train, *test))
    else:
        records = _records(path, "")
        classes = by_name(record.label for record in records)
        trains = first_half(classes)
        train = [record for record in records if record.label in trains]
        test = [record for record in records if record.label not in trains]
    return Listing(path.name, "folders", path, train, test, classes, (1, 2, 4, 8)).to_dataset(reading)


def _is_divided(path: Path) -> bool:
    return all((path / part).is_dir() for part in _PARTS)


def _records(root: Path, part: str) -> list[Record]:
    base = root / part
    return [Record(file, name) for name in _folders(base) for file in _images(root, base / name)]


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and entry.name[0] != ".")


def _images(root: Path, folder: Path) -> Iterator[str]:
    """Images in `folder`, relative to `root`, in order."""
    inside = folder.relative_to(root).as_posix()
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(ENDINGS) and name[0] != ".":
            yield f"{inside}/{name}"


LAYOUT = Layout(
    "folders",
    "any folder of class folders, or of train/ and test/ with class folders",
    "class folders with images in them, or train/ and test/ with such",
    recognises,
    load,
    nested=False,
)
