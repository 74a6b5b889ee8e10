"""The centroid engine's dense form in plain PyTorch: any dtype, differentiable by autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastdml.rules.closeness import Closeness

EUCLIDEAN = Closeness("euclidean", normalised=False)


def distances(rows: Tensor, points: Tensor) -> Tensor:
    """[B, P], from inner products; the gradient of a distance of 0 is 0."""
    squares, point_squares = (values.square().sum(dim=1) for values in (rows, points))
    return -EUCLIDEAN.of(rows @ points.T, squares[:, None], point_squares[None, :])


def nearest_others(rows: Tensor, points: Tensor, labels: Tensor, point_labels: Tensor, k: int) -> Tensor:
    """[B, k] by sorting all distances."""
    apart = distances(rows, points)
    apart = torch.where((labels[:, None] == point_labels[None, :]) | ~apart.isfinite(), math.inf, apart)
    found = torch.full((len(rows), k), -1, dtype=torch.int64, device=rows.device)
    sorted_distances, order = apart.sort(dim=1, stable=True)
    width = min(k, len(points))
    found[:, :width] = torch.where(sorted_distances[:, :width] < math.inf, order[:, :width], -1)
    return found


def hinge_sums(rows: Tensor, points: Tensor, own: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts, holding all distances [B, P]."""
    slack = limits[:, None] - distances(rows, points)
    other = torch.arange(len(points), device=own.device)[None, :] != own[:, None]
    poison = (rows * 0).sum(dim=1) + (points * 0).sum()
    sums = torch.where(other, slack.clamp_min(0), 0).sum(dim=1) + poison
    return sums, ((slack > 0) & other).sum(dim=1).to(rows)


def listed_distances(rows: Tensor, points: Tensor, listed: Tensor) -> Tensor:
    """[B, S], holding all differences [B, S, D]."""
    difference = rows[:, None] - points[listed.clamp_min(0)]
    squared = difference.square().sum(dim=2)
    apart = (squared != 0) & (listed >= 0)
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def class_sums(rows: Tensor, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """[C, D] by a product with the indicators [C, N]."""
    members = labels[None, :] == torch.arange(classes, device=labels.device)[:, None]
    members, rows = members.to(dtype), rows.to(dtype)
    if rows.isfinite().all():
        return members @ rows
    return torch.where(members.bool()[:, :, None], rows[None], 0).sum(dim=1)  # 0 times infinity is NaN
