"""The centroid engine a block of rows at a time: plain PyTorch in memory linear in rows and points.

Any device; what runs where there is no kernel. Derivatives are written out, so that nothing of a block is
kept from the forward to the backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fastdml.backends.centroid_reference import distances
from fastdml.engines import centroid_ops  # noqa: F401  defines the operators

CPU_BLOCK, DEVICE_BLOCK = 1 << 19, 1 << 24
"""Numbers of a block: about a cache on a CPU, enough to fill a GPU elsewhere."""


def _blocks(rows: Tensor, width: int) -> Iterator[slice]:
    """Slices of rows, each of which brings ``width`` numbers into a block."""
    length = max(1, (CPU_BLOCK if rows.is_cpu else DEVICE_BLOCK) // max(width, 1))
    for start in range(0, len(rows), length):
        yield slice(start, min(start + length, len(rows)))


def _nearest_others(
    rows: Tensor, points: Tensor, labels: Tensor, point_labels: Tensor, k: int, product: torch.dtype
) -> Tensor:
    found = torch.full((len(rows), k), -1, dtype=torch.int64, device=rows.device)
    width = min(k, len(points))
    for part in _blocks(rows, len(points)):
        apart = distances(rows[part], points)
        excluded = (labels[part, None] == point_labels[None, :]) | ~apart.isfinite()
        nearest, order = apart.masked_fill(excluded, math.inf).topk(width, dim=1, largest=False)
        found[part, :width] = torch.where(nearest < math.inf, order, -1)
    return found


def _hinge_sums(
    rows: Tensor, points: Tensor, own: Tensor, limits: Tensor, product: torch.dtype
) -> tuple[Tensor, Tensor]:
    sums, counts = rows.new_empty(len(rows)), rows.new_empty(len(rows))
    for part in _blocks(rows, len(points)):
        slack = _slack(rows[part], points, own[part], limits[part])
        sums[part] = slack.clamp_min(0).sum(dim=1)
        counts[part] = (slack > 0).sum(dim=1).to(rows.dtype)
    return sums + (rows * 0).sum(dim=1) + (points * 0).sum(), counts


def _slack(rows: Tensor, points: Tensor, own: Tensor, limits: Tensor) -> Tensor:
    """[b, P], how much nearer than its limit each point is; 0 for a row's own."""
    slack = limits[:, None] - distances(rows, points)
    return slack.masked_fill_(torch.arange(len(points), device=own.device)[None, :] == own[:, None], 0)


def _hinge_gradients(
    grad: Tensor, rows: Tensor, points: Tensor, own: Tensor, limits: Tensor, product: torch.dtype,
    need_rows: bool, need_points: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad_rows, grad_points = _empty_gradients(rows, points, need_rows, need_points)
    for part in _blocks(rows, len(points)):
        slack = _slack(rows[part], points, own[part], limits[part])
        distance = limits[part, None] - slack
        weights = torch.where((slack > 0) & (distance > 0), grad[part, None] / distance, 0)
        weights += slack * 0  # NaN stays NaN
        if need_rows:
            grad_rows[part] = weights @ points - weights.sum(dim=1, keepdim=True) * rows[part]
        if need_points:
            grad_points += weights.T @ rows[part] - weights.sum(dim=0)[:, None] * points
    return grad_rows, grad_points


def _empty_gradients(
    rows: Tensor, points: Tensor, need_rows: bool, need_points: bool
) -> tuple[Tensor, Tensor]:
    width = rows.shape[1]
    return (
        rows.new_zeros(len(rows) if need_rows else 0, width),
        points.new_zeros(len(points) if need_points else 0, width),
    )


def _listed_distances(rows: Tensor, points: Tensor, listed: Tensor) -> Tensor:
    found = rows.new_empty(listed.shape)
    for part in _blocks(rows, listed.shape[1] * rows.shape[1]):
        apart = (rows[part, None] - points[listed[part].clamp_min(0)]).norm(dim=2)
        found[part] = apart.masked_fill(listed[part] < 0, 0)
    return found


def _listed_gradients(
    grad: Tensor, rows: Tensor, points: Tensor, listed: Tensor, distances: Tensor,
    need_rows: bool, need_points: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad_rows, grad_points = _empty_gradients(rows, points, need_rows, need_points)
    for part in _blocks(rows, listed.shape[1] * rows.shape[1]):
        at = listed[part].clamp_min(0)
        counts = (listed[part] >= 0) & (distances[part] != 0)
        weights = torch.where(counts, grad[part] / distances[part], 0)
        pulls = weights[..., None] * (rows[part, None] - points[at])
        if need_rows:
            grad_rows[part] = pulls.sum(dim=1)
        if need_points:
            _add_by_index(grad_points, at.flatten(), pulls.flatten(0, 1), -1)
    return grad_rows, grad_points


def _class_sums(rows: Tensor, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    sums = torch.zeros(classes + 1, rows.shape[1], dtype=dtype, device=rows.device)
    places = torch.where((labels >= 0) & (labels < classes), labels, classes)
    for part in _blocks(rows, rows.shape[1]):
        _add_by_index(sums, places[part], rows[part].to(dtype), 1)
    return sums[:classes].clone()


def _add_by_index(out: Tensor, index: Tensor, rows: Tensor, sign: int) -> None:
    """``out[index] += sign * rows``, in an order that does not vary."""
    if out.is_cpu:
        out.index_add_(0, index, rows, alpha=sign)  # one row after another
    else:
        out.index_put_((index,), sign * rows, accumulate=True)  # sorts; index_add_ would race


_IMPLEMENTATIONS = {
    "nearest_others": _nearest_others,
    "hinge_sums": _hinge_sums,
    "hinge_gradients": _hinge_gradients,
    "listed_distances": _listed_distances,
    "listed_gradients": _listed_gradients,
    "class_sums": _class_sums,
}
_library = torch.library.Library("fastdml", "IMPL")
for _name, _implementation in _IMPLEMENTATIONS.items():
    _library.impl(f"{_name}_blocked", _implementation, "CompositeExplicitAutograd")
