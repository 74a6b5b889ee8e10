"""The centroid engine's six operators on Triton, as fastdml/engines/centroid_ops.py describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.centroid_hinge_backward import hinge_gradients_by_blocks
from fastdml.triton_kernels.centroid_hinge_forward import sums_and_counts
from fastdml.triton_kernels.centroid_listed import distances_to_listed, listed_row_gradients
from fastdml.triton_kernels.centroid_nearest import nearest_by_blocks, nearest_in_one_sweep
from fastdml.triton_kernels.centroid_rows import common_scale, compared
from fastdml.triton_kernels.centroid_segments import segment_sums, segments_of
from fastdml.triton_kernels.pair import DTYPES


def nearest_others(
    rows: Tensor, points: Tensor, labels: Tensor, point_labels: Tensor, k: int, product: torch.dtype
) -> Tensor:
    """[B, k], int64: of every row the nearest points of other labels."""
    _refuse(rows, product)
    scale = common_scale(product, rows, points)
    left = compared(rows, product, scale)
    if k > configs.NEAREST_KEPT:
        return nearest_by_blocks(left, compared(points, product, scale), labels, point_labels, k)
    known, order = point_labels.sort(stable=True)
    labels = labels.contiguous()
    start = torch.searchsorted(known, labels, out_int32=True)
    end = torch.searchsorted(known, labels, out_int32=True, right=True)
    found = nearest_in_one_sweep(left, compared(points[order], product, scale), start, end, k)
    return torch.where(found < 0, -1, order[found.clamp_min(0)])


def hinge_sums(
    rows: Tensor, points: Tensor, own: Tensor, limits: Tensor, product: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Sums and counts [B], float32."""
    _refuse(rows, product)
    scale = common_scale(product, rows, points)
    left, right = (compared(side, product, scale) for side in (rows, points))
    sums, counts = sums_and_counts(left, right, own.contiguous(), _times(limits, scale))
    sums = sums if scale is None else sums / scale
    # comparisons with NaN are false: sums would pass over it in silence
    return sums + left.squares * 0 + (right.squares * 0).sum(), counts


def hinge_gradients(
    grad: Tensor, rows: Tensor, points: Tensor, own: Tensor, limits: Tensor, product: torch.dtype,
    need_rows: bool, need_points: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of rows and points, float32; [0, D] where not needed."""
    _refuse(rows, product)
    # scaled rows have scaled distances, whose gradients are the same
    scale = common_scale(product, rows, points)
    left, right = (compared(side, product, scale) for side in (rows, points))
    found = hinge_gradients_by_blocks(
        grad.contiguous(), left, right, own.contiguous(), _times(limits, scale), need_rows, need_points
    )
    grad_rows, grad_points = (rows.new_empty(0, rows.shape[1]) if each is None else each for each in found)
    return grad_rows, grad_points


def listed_distances(rows: Tensor, points: Tensor, listed: Tensor) -> Tensor:
    """[B, S], float32."""
    _refuse(rows)
    return distances_to_listed(rows.contiguous(), points.contiguous(), listed.contiguous())


def listed_gradients(
    grad: Tensor, rows: Tensor, points: Tensor, listed: Tensor, distances: Tensor,
    need_rows: bool, need_points: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of rows and points, float32; [0, D] where not needed."""
    _refuse(rows)
    rows, points, listed = rows.contiguous(), points.contiguous(), listed.contiguous()
    weights = torch.where((listed >= 0) & (distances != 0), grad / distances, 0).contiguous()
    grad_rows, grad_points = (rows.new_empty(0, rows.shape[1]) for _ in range(2))
    if need_rows:
        grad_rows = listed_row_gradients(rows, points, listed, weights)
    if need_points:
        places = segments_of(listed.flatten(), len(points))
        grad_points = segment_sums(
            places, rows, torch.float32, listed=listed.shape[1], weights=weights, points=points
        )
    return grad_rows, grad_points


def class_sums(rows: Tensor, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """[C, D] of ``dtype``."""
    _refuse(rows)
    return segment_sums(segments_of(labels, classes), rows.contiguous(), dtype)


def _times(limits: Tensor, scale: Tensor | None) -> Tensor:
    return (limits if scale is None else limits * scale).contiguous()


def _refuse(rows: Tensor, product: torch.dtype = torch.float32) -> None:
    if rows.dtype != torch.float32:
        raise TypeError(f"rows must be float32 on triton, got {rows.dtype}")
    if product not in DTYPES:
        raise TypeError(f"product must be float16, bfloat16 or float32 on triton, got {product}")
