"""The centres of classes as a loss stores them: as many for every class, or of each its own number."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES_TOGETHER = 1 << 22
"""Numbers of a block of classes whose centres are compared with each other."""


class Bucket(NamedTuple):
    """Classes with the same number of centres, which stand together."""

    first_class: int
    classes: int
    first_center: int
    per_class: int

    @property
    def centers(self) -> int:
        return self.classes * self.per_class


class CenterLayout:
    """Where the centres of every class stand: classes in order of their number of centres, then of class.

    Args:
        counts: [C], int64, the number of centres of every class, at least 1.
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts.cpu()
        self.order = self.counts.argsort(stable=True)
        """[C]: the class at every place."""
        self.place = torch.empty_like(self.order)
        """[C]: the place of every class."""
        self.place[self.order] = torch.arange(len(self.order), device=self.order.device)
        self._moved: dict[tuple[str, torch.device], Tensor] = {}
        self.buckets: list[Bucket] = []
        classes = centers = 0
        numbers, sizes = torch.unique_consecutive(self.counts[self.order], return_counts=True)
        for number, size in zip(numbers.tolist(), sizes.tolist(), strict=True):
            self.buckets.append(Bucket(classes, size, centers, number))
            classes, centers = classes + size, centers + size * number
        self.total = centers

    def label_places(self, labels: Tensor) -> Tensor:
        """[B]: the places of the classes of samples; -1 stays -1."""
        if len(self.buckets) == 1:
            return labels
        return torch.where(labels < 0, -1, self.on("place", labels.device)[labels.clamp_min(0)])

    def on(self, name: str, device: torch.device) -> Tensor:
        """``order`` or ``place`` on a device, where it stays: a copy to it would wait in every step."""
        found: Tensor = getattr(self, name)
        if found.device != device:
            found = self._moved.setdefault((name, device), found.to(device))
        return found


def merged(units: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Which centres of each class are one: components of those with a cosine above ``1 - delta``.

    Args:
        units: [n, K, D] centres of length one.
        delta: how far a cosine may lie below 1.

    Returns:
        [n, K] int64, the first centre of the component that each belongs to; and [n], the components.
    """
    near = (units @ units.transpose(1, 2)) > 1 - delta
    near |= torch.eye(near.shape[1], dtype=torch.bool, device=near.device)
    steps = 1
    while steps < near.shape[1]:  # paths of twice the length
        near = (near.to(units.dtype) @ near.to(units.dtype)) > 0
        steps *= 2
    first = near.to(torch.uint8).argmax(dim=2)
    own = torch.arange(near.shape[1], device=near.device)
    return first, (first == own).sum(dim=1)


def component_means(units: Tensor, first: Tensor) -> list[Tensor]:
    """The mean direction of every component of each class, a [m, D] tensor a class."""
    sums = torch.zeros_like(units).scatter_add(1, first[..., None].expand_as(units), units)
    own = first == torch.arange(first.shape[1], device=first.device)
    return [F.normalize(each[kept], dim=1) for each, kept in zip(sums, own, strict=True)]
