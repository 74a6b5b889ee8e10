"""The data set of a run: built in, by its name, or on disk, by its path."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.errors import InputError
from fastdml.training.catalogue import DATASETS
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.views import stored_size


def open_dataset(config: TrainConfig) -> Dataset:
    """The data set that ``config.data`` names.

    Raises:
        ConfigError: neither a built-in data set nor a path.
        InputError: what is at that path is not a data set, or images are missing.
    """
    if config.data in DATASETS:
        entry = DATASETS[config.data]
        return Dataset(config.data, "built-in", entry.load("train"), entry.load("test"))
    path = Path(config.data).expanduser()
    if not path.exists() and os.sep not in config.data:
        near = get_close_matches(config.data, DATASETS)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ConfigError(
            f"data must be the path of a data set, or one of {', '.join(DATASETS)}, got {config.data!r}, "
            f"and there is no such file or folder in {Path.cwd()}{hint}"
        )
    from fastdml.data.layouts import load_dataset

    return load_dataset(
        path, config.layout, size=stored_size(config), fit=config.fit, on_error=config.on_unreadable
    )


def check_can_be_judged(dataset: Dataset) -> None:
    """Raises InputError unless there are test images to search for, and some to search among."""
    test = dataset.test
    for part, chosen in (("queries", test.is_query), ("gallery images", test.is_gallery)):
        if not bool(chosen.any()):
            raise InputError(
                f"the test split of {dataset.name} must have {part}, got none of {len(test)} images"
            )
