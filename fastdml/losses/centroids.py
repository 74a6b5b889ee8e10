"""Centroids of classes: the four ways to average, and those of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.engines.centroid import class_sums
from fastdml.errors import InputError


@dataclass(frozen=True)
class CentroidKind:
    """How the embeddings f of a class become its centroid.

    Attributes:
        of_units: whether f / |f| is averaged instead of f.
        unit: whether the mean is scaled to length one.
    """

    of_units: bool
    unit: bool

    @classmethod
    def named(cls, name: str) -> CentroidKind:
        """One of ``CENTROID_KINDS``; raises InputError for another name."""
        if name not in CENTROID_KINDS:
            raise InputError(f"centroids must be one of {', '.join(CENTROID_KINDS)}, got {name!r}")
        return CENTROID_KINDS[name]

    def averaged(self, rows: Tensor) -> Tensor:
        """What is averaged of embeddings [B, D]."""
        return F.normalize(rows, dim=1) if self.of_units else rows

    def mean(self, sums: Tensor, counts: Tensor) -> Tensor:
        """[C, D] from sums [C, D] and counts [C] of members; anything where there are none."""
        means = sums / counts.clamp_min(1).to(sums.dtype)[:, None]
        return F.normalize(means, dim=1) if self.unit else means


CENTROID_KINDS = {
    "mean": CentroidKind(of_units=False, unit=False),
    "mean_of_units": CentroidKind(of_units=True, unit=False),
    "unit_of_mean": CentroidKind(of_units=False, unit=True),
    "unit_of_mean_of_units": CentroidKind(of_units=True, unit=True),
}
"""The choices 1 to 4 of the paper, in its order."""


class Centroids(NamedTuple):
    """Centroids of the classes that have one, and where each class stands among them."""

    points: Tensor
    """[P, D]."""
    classes: Tensor
    """[K], int64, rising: the classes that may have a centroid."""
    place: Tensor
    """[K], int64: where the centroid of each stands in ``points``; -1: it has none."""

    def index_of(self, classes: Tensor) -> Tensor:
        """Where the centroids of some classes stand, of the shape of ``classes``; -1 where there is none."""
        if not len(self.classes):
            return torch.full_like(classes, -1)
        at = torch.searchsorted(self.classes, classes.contiguous()).clamp_max(len(self.classes) - 1)
        return torch.where(self.classes[at] == classes, self.place[at], -1)


def batch_centroids(
    rows: Tensor, labels: Tensor, kind: CentroidKind, trusted: Tensor | None = None
) -> Centroids:
    """The centroids of a batch, differentiable in it.

    Reads the number of classes back from the device.

    Args:
        rows: [B, D], what is averaged, float32 or float64: embeddings, or of length one, as ``kind`` says.
        labels: [B], int64.
        kind: what becomes of the mean.
        trusted: [B], bool: the samples that form centroids; None: all. A class without one has none.
    """
    classes, member_of = labels.unique(return_inverse=True)
    if trusted is not None:
        member_of = torch.where(trusted, member_of, -1)
    sums = class_sums(rows, member_of, len(classes))
    counts = count_members(member_of, len(classes))
    points, place = kind.mean(sums, counts), torch.arange(len(classes), device=labels.device)
    if trusted is not None:
        has_one = counts > 0
        points, place = points[has_one], torch.where(has_one, has_one.cumsum(0) - 1, -1)
    return Centroids(points, classes, place)


def count_members(labels: Tensor, classes: int) -> Tensor:
    """[C], int64: how often every class occurs; labels outside [0, C) are left out."""
    known = (labels >= 0) & (labels < classes)
    counts = torch.zeros(classes + 1, dtype=torch.int64, device=labels.device)
    return counts.scatter_add(0, torch.where(known, labels, classes), torch.ones_like(labels))[:classes]
