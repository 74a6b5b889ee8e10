"""The data set of a run: built in, by its name, or on disk, by its path."""

from __future__ import annotations

import os
from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.training.catalogue import DATASETS, find_dataset
from fastdml.training.config import TrainConfig
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
        find_dataset(config.data)  # raises, with the names that are near
    from fastdml.data.layouts import load_dataset

    return load_dataset(
        path, config.layout, size=stored_size(config), fit=config.fit, on_error=config.on_unreadable
    )
