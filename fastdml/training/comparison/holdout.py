"""Classes held out of a training split, to choose a checkpoint by."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastdml.data import Augment, Split
from fastdml.training.config import ConfigError


def hold_out_classes(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Cut a split in two by class: (to train on, to validate on), no class in both.

    Args:
        share: of the classes that goes into the second part, rounded, at least 2.
        seed: of the draw; it alone decides which.

    Raises:
        ConfigError: a part would have fewer than two classes.
    """
    classes = torch.unique(split.labels)
    held = max(round(share * classes.numel()), 2)
    if classes.numel() - held < 2:
        raise ConfigError(
            f"data must have at least 4 training classes to hold {held} of them out, got {classes.numel()}"
        )
    order = torch.randperm(classes.numel(), generator=torch.Generator().manual_seed(seed))
    is_held = torch.isin(split.labels, classes[order[:held]])
    return _part(split, ~is_held, "training"), _part(split, is_held, "validation")


def perturbed(split: Split, seed: int) -> Split:
    """The split with every image perturbed once as in training; ``seed`` alone decides how.

    Among drawings as plain as those of training, the nearest is soon right for every loss.
    """
    images = split.batch(torch.arange(len(split)))
    changed = Augment()(images, torch.Generator().manual_seed(seed))
    return replace(split, images=(255 * changed).round().byte())


def _part(split: Split, mask: Tensor, name: str) -> Split:
    rows = torch.nonzero(mask).squeeze(1)
    everything = torch.ones(rows.numel(), dtype=torch.bool)
    return Split(
        name=f"{split.name}/{name}",
        images=split.images[rows],
        labels=split.labels[rows],
        class_names=split.class_names,
        is_query=everything,
        is_gallery=everything,
        cameras=None if split.cameras is None else split.cameras[rows],
        domains=None if split.domains is None else split.domains[rows],
        domain_names=split.domain_names,
    )
