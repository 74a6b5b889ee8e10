"""Which images make a batch, and how many processes read them."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fastdml.data import ClassBalancedBatchSampler, Split
from fastdml.data.category_sampler import CategoryBatchSampler
from fastdml.data.split import reads_files
from fastdml.noise import DistilledLabels
from fastdml.training.config import ConfigError, TrainConfig

_MOST_WORKERS = 8


def class_indices(split: Split) -> Tensor:
    """int64 [N], the class of every image of a split, classes counted from 0 without gaps."""
    return torch.unique(split.labels, return_inverse=True)[1]


def make_sampler(
    config: TrainConfig, split: Split, classes: Tensor, distilled: DistilledLabels | None = None
) -> ClassBalancedBatchSampler | CategoryBatchSampler:
    """The batches of a run, one for every step.

    Args:
        split: the training images.
        classes: int64 [N], of every image.
        distilled: batches are drawn by the classes that a teacher predicts, unless it predicts too few.
    """
    # noise and a teacher leave some classes with few images
    replacement = config.repeat_images or config.noise > 0 or distilled is not None
    if config.categories_per_batch:
        if split.domains is None:
            raise ConfigError(f"categories_per_batch must be 0 for {split.name}, which has no categories")
        return CategoryBatchSampler(
            classes,
            split.domains,
            classes_per_batch=config.classes_per_batch,
            samples_per_class=config.samples_per_class,
            categories_per_batch=config.categories_per_batch,
            seed=config.seed,
            num_batches=config.steps,
            replacement=replacement,
        )
    return ClassBalancedBatchSampler(
        _balanced_by(classes, distilled, config.classes_per_batch),
        classes_per_batch=config.classes_per_batch,
        samples_per_class=config.samples_per_class,
        seed=config.seed,
        num_batches=config.steps,
        replacement=replacement,
    )


def check_batch(config: TrainConfig, train: Split) -> None:
    """Raises ConfigError unless the classes of the split fill a batch."""
    _, sizes = torch.unique(train.labels, return_counts=True)
    if config.classes_per_batch > sizes.numel():
        raise ConfigError(
            f"batch needs {config.classes_per_batch} classes, but {config.data} has only {sizes.numel()} to "
            f"train on: at most {sizes.numel() * config.samples_per_class} with {config.samples_per_class} "
            "samples a class"
        )
    least = int(sizes.min())
    if config.samples_per_class > least and not (config.repeat_images or config.noise):
        few = int((sizes < config.samples_per_class).sum())
        raise ConfigError(
            f"samples_per_class must be at most {least}, the size of the smallest class of {config.data}, "
            f"got {config.samples_per_class}: {few} of {sizes.numel()} classes have fewer (repeat_images "
            "lets them repeat theirs)"
        )


def worker_count(config: TrainConfig, split: Split) -> int:
    """How many processes read images."""
    if not reads_files(split.images):
        return 0
    if config.workers is not None:
        return config.workers
    return max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) - 1))


def _balanced_by(classes: Tensor, distilled: DistilledLabels | None, least: int) -> Tensor:
    """int64 [N], the class that each image is drawn by; a teacher that predicts too few is not followed."""
    if distilled is None or distilled.predicted.unique().numel() < least:
        return classes
    return distilled.predicted
