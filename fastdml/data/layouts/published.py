"""The published counts of the official data sets, and how a copy differs from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Counts(NamedTuple):
    """Images and classes of a part of a data set."""

    images: int
    classes: int


# Market-1501's gallery is counted without its 3,819 junk images, with the distractors as one class.
PUBLISHED: Mapping[str, Mapping[str, Counts]] = {
    "sop": {"train": Counts(59_551, 11_318), "test": Counts(60_502, 11_316)},
    "cub": {"train": Counts(5_864, 100), "test": Counts(5_924, 100)},
    "cars": {"train": Counts(8_054, 98), "test": Counts(8_131, 98)},
    "in-shop": {
        "train": Counts(25_882, 3_997),
        "query": Counts(14_218, 3_985),
        "gallery": Counts(12_612, 3_985),
    },
    "market": {"train": Counts(12_936, 751), "query": Counts(3_368, 750), "gallery": Counts(15_913, 751)},
}


def differences(layout: str, counted: Mapping[str, Counts]) -> list[str]:
    """One sentence for every part whose counts are not the published ones; none for a layout without.

    Args:
        layout: name of the layout.
        counted: what "train", "test", "query" and "gallery" hold.
    """
    notes = []
    for part, expected in PUBLISHED.get(layout, {}).items():
        found = counted[part]
        if found != expected:
            notes.append(
                f"{part} has {_words(found)}, published are {_words(expected)}: "
                f"{_gap(found.images - expected.images, 'image')}, "
                f"{_gap(found.classes - expected.classes, 'class')}"
            )
    return notes


def _words(counts: Counts) -> str:
    return f"{counts.images:,} images of {counts.classes:,} classes"


def _gap(difference: int, noun: str) -> str:
    plural = noun if abs(difference) == 1 else {"image": "images", "class": "classes"}[noun]
    if difference == 0:
        return f"no {noun} missing"
    return f"{abs(difference):,} {plural} {'missing' if difference < 0 else 'too many'}"
