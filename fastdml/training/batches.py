"""Which images make a batch, and how many processes read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastdml.data import ClassBalancedBatchSampler, Split
from fastdml.data.category_sampler import CategoryBatchSampler
from fastdml.data.split import reads_files
from fastdml.noise import DistilledLabels
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.processes import Processes

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
    """Raises ConfigError (InputError where categories do not fill it) unless the split fills a batch."""
    if not len(train):
        raise ConfigError(f"data must have images to train on, got none in {config.data}")
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
    if config.categories_per_batch:
        if config.classes_per_batch % config.categories_per_batch:
            raise ConfigError(
                f"categories_per_batch must divide the {config.classes_per_batch} classes of a batch (batch "
                f"over samples_per_class), got {config.categories_per_batch}"
            )
        make_sampler(config, train, class_indices(train))  # refuses categories that do not work


class BatchChunks:
    """The chunks of this process, of every step in turn.

    The rows of a batch are dealt out like cards, the n-th of N chunks has the rows n, n + N, n + 2 N, ...:
    the images of a class, which stand side by side, come into different chunks, each of which BatchNorm
    normalises by itself.

    Args:
        batch: the rows of the batch of a step, counted from 0.
        config: how large chunks are, and how many steps may be made.
        processes: those that share the batches.
        first: the step to begin with.

    Attributes:
        count: chunks of a batch.
        numbers: those of them that are this process's.
    """

    def __init__(
        self, batch: Callable[[int], Tensor], config: TrainConfig, processes: Processes, first: int
    ) -> None:
        self._batch, self._steps = batch, range(first, config.steps)
        size = config.chunk or -(-config.batch // processes.count)
        self.count = -(-config.batch // size)
        self.numbers = processes.share(self.count)

    def rows(self) -> Iterator[Tensor]:
        """int64 [n] of each chunk; ``len(numbers)`` of them make a step."""
        for step in self._steps:
            batch = self._batch(step)
            for number in self.numbers:
                yield batch[number :: self.count]


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
