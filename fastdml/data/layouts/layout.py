"""What a layout is: how a data set lies on disk, and who reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastdml.data.dataset import Dataset


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        size: (height, width), pixels.
        fit: as in `fastdml.data.images.ImageFiles`.
        on_error: "stop" makes an image that is listed and absent an error, "skip" leaves it out with a note;
            also what `ImageFiles` does with unreadable ones.
    """

    size: tuple[int, int] = (224, 224)
    fit: str = "crop"
    on_error: str = "stop"


@dataclass(frozen=True)
class Layout:
    """How one data set, or one kind of data set, lies on disk.

    Attributes:
        name: what `load_dataset` calls it.
        about: one line for lists.
        looked_for: what a path must hold to be recognised, for messages.
        recognises: whether a path, which exists, is of this layout.
        load: reads a path that is recognised.
        signs: names of which one alone tells an incomplete copy, that must not pass for class folders.
        nested: whether the folder above is accepted too.
    """

    name: str
    about: str
    looked_for: str
    recognises: Callable[[Path], bool]
    load: Callable[[Path, Reading], Dataset]
    signs: tuple[str, ...] = ()
    nested: bool = True
