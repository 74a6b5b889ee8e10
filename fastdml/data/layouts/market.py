"""Market-1501: identity, camera and sequence are in the names of the files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.layouts.records import Listing, Record

JUNK = "-1"
DISTRACTORS = "0000"
_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_NAME = re.compile(r"(-1|\d{4})_c(\d)s\d+_\d+_\d+\.jpg(?:\.jpg)?", re.IGNORECASE)


def recognises(path: Path) -> bool:
    """Whether the three folders are there."""
    return all((path / folder).is_dir() for folder in _FOLDERS)


def load(path: Path, reading: Reading) -> Dataset:
    """Train, and a test split of queries and a gallery, all with cameras.

    Junk (identity -1) is in neither split; distractors (identity 0000) are a class of the gallery that no
    query is of.
    """
    train = list(_records(path, "bounding_box_train", query=True, gallery=True))
    test = list(_records(path, "query", query=True, gallery=False))
    test += _records(path, "bounding_box_test", query=False, gallery=True)
    classes = sorted({record.label for record in (*train, *test)})
    return Listing("market", "market", path, train, test, classes, (1, 5, 10)).to_dataset(reading)


def _records(root: Path, folder: str, query: bool, gallery: bool) -> Iterator[Record]:
    for name in sorted(os.listdir(root / folder)):
        match = _NAME.fullmatch(name)  # Thumbs.db lies among them
        if match is not None and match[1] != JUNK:
            yield Record(f"{folder}/{name}", match[1], query, gallery, camera=int(match[2]))


LAYOUT = Layout(
    "market",
    "Market-1501, people",
    "bounding_box_train/, bounding_box_test/ and query/",
    recognises,
    load,
    signs=("bounding_box_train", "bounding_box_test"),
)
