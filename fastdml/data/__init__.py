"""Data sets, batch samplers and augmentation.

Needs torch and, for the stored set, NumPy. What reads image files needs Pillow, what augments photographs
kornia, and the .mat files of Cars196 SciPy; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastdml.data import glyphs
from fastdml.data.augment import Augment
from fastdml.data.category_sampler import CategoryBatchSampler
from fastdml.data.dataset import Dataset
from fastdml.data.samplers import ClassBalancedBatchSampler
from fastdml.data.split import ImageStore, Split

if TYPE_CHECKING:
    from fastdml.data.images import ImageFiles, UnreadableImageError
    from fastdml.data.layouts import LAYOUTS, load_dataset
    from fastdml.data.loading import Loaded, load_chunks
    from fastdml.data.photos import PhotoAugment

_NAMES = {
    "LAYOUTS": "layouts",
    "ImageFiles": "images",
    "Loaded": "loading",
    "PhotoAugment": "photos",
    "UnreadableImageError": "images",
    "load_chunks": "loading",
    "load_dataset": "layouts",
}

__all__ = [
    "LAYOUTS",
    "Augment",
    "CategoryBatchSampler",
    "ClassBalancedBatchSampler",
    "Dataset",
    "ImageFiles",
    "ImageStore",
    "Loaded",
    "PhotoAugment",
    "Split",
    "UnreadableImageError",
    "glyphs",
    "load_chunks",
    "load_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"fastdml.data.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
