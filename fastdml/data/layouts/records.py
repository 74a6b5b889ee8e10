"""Records of images, as every layout of image files lists them, and the data set made of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastdml.data.dataset import Dataset
from fastdml.data.images import HOW_TO_SKIP, ImageFiles
from fastdml.data.layouts.layout import Reading
from fastdml.data.layouts.published import Counts, differences
from fastdml.data.split import Split
from fastdml.errors import InputError

SHOWN = 3
"""How many paths a message names of those that it counts."""


class Record(NamedTuple):
    """One image: its path (relative to the listing's root, or absolute), the name of its class, its part."""

    path: str
    label: str
    is_query: bool = True
    is_gallery: bool = True
    camera: int | None = None
    domain: str | None = None


@dataclass(frozen=True)
class Listing:
    """All images that a data set's annotations name.

    Attributes:
        name: of the data set.
        layout: of the layout that made it.
        root: folder that the records' paths start from.
        train: records for training.
        test: records of the test split, queries and gallery.
        class_order: names of all classes; labels count in this order, those of `train` first.
        ks: the K of Recall@K that are usual for this data set.
        notes: what a person should know.
    """

    name: str
    layout: str
    root: Path
    train: list[Record]
    test: list[Record]
    class_order: Sequence[str]
    ks: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def to_dataset(self, reading: Reading) -> Dataset:
        """The data set with its images still on disk.

        Raises:
            InputError: listed images are absent and `reading.on_error` is "stop", or none is there at all.
        """
        listed = [record.path for record in (*self.train, *self.test)]
        if not listed:
            raise InputError(f"{self.root} must hold images, its annotations list none")
        there = _present(self.root, listed)
        notes = [*differences(self.layout, self._counts()), *self.notes]
        absent = [path for path in listed if path not in there]
        if absent:
            notes.append(self._allow(absent, len(listed), reading))
        train = [record for record in self.train if record.path in there]
        test = [record for record in self.test if record.path in there]
        numbers = class_numbers(train, test, self.class_order)
        shared = {record.label for record in train} & {record.label for record in test}
        if shared:
            notes.append(
                f"{len(shared):,} of the classes are both in train and in test: {named(sorted(shared))}"
            )
        domains = tuple(sorted({r.domain for r in (*train, *test) if r.domain is not None}))
        made = [
            _split(f"{self.name}/{part}", self.root, records, numbers, domains, reading)
            for part, records in (("train", train), ("test", test))
        ]
        return Dataset(self.name, self.layout, made[0], made[1], self.ks, tuple(notes))

    def _allow(self, absent: Sequence[str], listed: int, reading: Reading) -> str:
        """The note on absent images, or the error where they must be there."""
        text = f"{len(absent):,} of {listed:,} listed images are not there: {named(absent)}"
        if len(absent) == listed:
            raise InputError(f"{self.root}: {text}; they may lie in another folder")
        if reading.on_error == "stop":
            raise InputError(f"{self.root}: {text}; {HOW_TO_SKIP}")
        return text

    def _counts(self) -> dict[str, Counts]:
        parts = {
            "train": self.train,
            "test": self.test,
            "query": [record for record in self.test if record.is_query],
            "gallery": [record for record in self.test if record.is_gallery],
        }
        return {
            part: Counts(len(records), len({record.label for record in records}))
            for part, records in parts.items()
        }


def class_numbers(train: Iterable[Record], test: Iterable[Record], order: Sequence[str]) -> dict[str, int]:
    """Label of each class that has images: training classes from 0 in the given order, then the others."""
    trained = {record.label for record in train}
    tested = {record.label for record in test} - trained
    known = [name for name in order if name in trained] + [name for name in order if name in tested]
    return {name: number for number, name in enumerate(known)}


def first_half(classes: Sequence[str]) -> set[str]:
    """The classes that train where nothing says which: the first half in this order.

    Raises:
        InputError: there are fewer than two.
    """
    if len(classes) < 2:
        raise InputError(f"the data set must have at least two classes to be divided, got {list(classes)}")
    return set(classes[: (len(classes) + 1) // 2])


def by_name(classes: Iterable[str]) -> list[str]:
    """Names in order, each once: as numbers where all are whole numbers, else as text."""
    names = set(classes)
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def named(paths: Sequence[str]) -> str:
    """The first few paths, and that there are more."""
    return ", ".join(paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")


def _present(root: Path, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that are on disk; every folder is listed once, since a look at each file is slow."""
    by_folder: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        by_folder.setdefault(folder, []).append((name, path))
    there: set[str] = set()
    for folder, wanted in by_folder.items():
        try:
            names = set(os.listdir(os.path.join(root, folder)))
        except (FileNotFoundError, NotADirectoryError):
            continue
        there.update(path for name, path in wanted if name in names)
    return there


def _split(
    name: str,
    root: Path,
    records: Sequence[Record],
    numbers: dict[str, int],
    domain_names: tuple[str, ...],
    reading: Reading,
) -> Split:
    base = str(root)
    paths = [os.path.join(base, record.path) for record in records]
    cameras = [record.camera for record in records]
    position = {domain: number for number, domain in enumerate(domain_names)}
    domains = [-1 if record.domain is None else position[record.domain] for record in records]
    return Split(
        name=name,
        images=ImageFiles(paths, reading.size, reading.fit, reading.on_error),
        labels=_whole([numbers[record.label] for record in records]),
        class_names=tuple(numbers),
        is_query=torch.tensor([record.is_query for record in records], dtype=torch.bool),
        is_gallery=torch.tensor([record.is_gallery for record in records], dtype=torch.bool),
        cameras=_whole(cameras) if cameras and None not in cameras else None,
        domains=_whole(domains) if domains and -1 not in domains else None,
        domain_names=domain_names if domains and -1 not in domains else (),
    )


def _whole(values: Sequence[int | None]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
