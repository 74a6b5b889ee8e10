"""What a run can be made of, by name: one line a loss, one line a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fastdml.data import Split, glyphs
from fastdml.losses import MultiSimilarityLoss
from fastdml.training.config import ConfigError

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class LossEntry:
    """A loss that can be trained with: how it is made, and one line about it."""

    make: Callable[[], nn.Module]
    about: str


@dataclass(frozen=True)
class DatasetEntry:
    """A data set that can be trained on: ``load("train")`` or ``load("test")``, and one line about it."""

    load: Callable[[SplitName], Split]
    about: str


LOSSES: Mapping[str, LossEntry] = {
    "multi-similarity": LossEntry(
        lambda: MultiSimilarityLoss(epsilon=0.1),
        "Multi-Similarity with its pair mining fused in (epsilon 0.1)",
    ),
}

DATASETS: Mapping[str, DatasetEntry] = {
    "glyphs": DatasetEntry(glyphs.load, "kanji in many typefaces, 32 x 32 grey; built in"),
}


def find_loss(name: str) -> LossEntry:
    """The loss of that name; an unknown one raises ConfigError with the known names."""
    return _find("loss", name, LOSSES)


def find_dataset(name: str) -> DatasetEntry:
    """The data set of that name; an unknown one raises ConfigError with the known names."""
    return _find("data", name, DATASETS)


def _find(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise ConfigError(f"{kind} must be one of {', '.join(sorted(table))}, got {name!r}")
    return table[name]
