"""The centroid engine: samples against the centroids of classes, by Euclidean distance, in linear memory.

What is near is found in one sweep over samples and centroids, and what it costs is plain PyTorch on a few
numbers a sample (:mod:`fastdml.losses.fat`). Nothing here holds B x C distances, except on the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fastdml.backends import centroid_blocked, centroid_reference, select  # noqa: F401  defines operators
from fastdml.engines import centroid_ops  # noqa: F401  defines the operators


def class_sums(rows: Tensor, labels: Tensor, classes: int, dtype: torch.dtype | None = None) -> Tensor:
    """[C, D]: the sum of the rows of every class, differentiable once.

    Args:
        rows: [N, D], float32 or float64.
        labels: [N], int64; a row whose label is outside [0, C) is left out.
        classes: C.
        dtype: of the sums, float32 or float64; None is that of the rows.
    """
    dtype = rows.dtype if dtype is None else dtype
    backend = _backend(rows, rows)
    if backend == "reference" or classes == 0:
        return centroid_reference.class_sums(rows, labels, classes, dtype)
    result: Tensor = _ClassSums.apply(rows, labels, classes, dtype, backend)
    return result


def listed_distances(rows: Tensor, points: Tensor, listed: Tensor) -> Tensor:
    """[B, S]: the distances of every row to some points, differentiable once in both.

    Args:
        rows: [B, D], float32 or float64.
        points: [P, D], of the dtype of the rows.
        listed: [B, S], int64 indices of points; -1 gives 0. The gradient of a distance of 0 is 0.
    """
    backend = _backend(rows, points)
    if backend == "reference" or listed.shape[1] == 0:
        if not len(points):
            return rows.new_zeros(listed.shape) + (rows * 0).sum()
        return centroid_reference.listed_distances(rows, points, listed)
    result: Tensor = _ListedDistances.apply(rows, points, listed, backend)
    return result


def nearest_others(
    rows: Tensor,
    points: Tensor,
    labels: Tensor,
    point_labels: Tensor,
    k: int,
    *,
    product: torch.dtype | None = None,
) -> Tensor:
    """[B, k], int64: of every row the k nearest points of other labels, the nearest first.

    Args:
        rows: [B, D], float32 or float64.
        points: [P, D], of the dtype of the rows.
        labels: [B], int64.
        point_labels: [P], int64.
        k: at least 1; -1 stands where a row has fewer.
        product: what a GPU may make products in, such as bfloat16; None is the dtype of the rows.
    """
    rows, points = rows.detach(), points.detach()
    backend = _backend(rows, points)
    if backend == "reference":
        return centroid_reference.nearest_others(rows, points, labels, point_labels, k)
    product = rows.dtype if product is None else product
    result: Tensor = _operator("nearest_others", backend)(rows, points, labels, point_labels, k, product)
    return result


def hinge_sums(
    rows: Tensor, points: Tensor, own: Tensor, limits: Tensor, *, product: torch.dtype | None = None
) -> Tensor:
    """[B]: ``sum [limit - distance]_+`` over all points but a row's own, differentiable once.

    Args:
        rows: [B, D], float32 or float64.
        points: [P, D], of the dtype of the rows.
        own: [B], int64, the index of the row's own point, which is left out; -1: none.
        limits: [B], of the dtype of the rows; gradients flow into them too.
        product: what a GPU may make products in; None is the dtype of the rows.
    """
    backend = _backend(rows, points)
    if backend == "reference":
        return centroid_reference.hinge_sums(rows, points, own, limits)[0]
    product = rows.dtype if product is None else product
    result: Tensor = _HingeSums.apply(rows, points, own, limits, product, backend)
    return result


def _backend(rows: Tensor, points: Tensor) -> str:
    if not (rows.numel() and points.numel()):
        return "reference"
    return select(rows.device.type, rows.dtype).name


def _operator(name: str, backend: str) -> Any:
    return getattr(torch.ops.fastdml, f"{name}_{backend}").default


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, labels: Tensor, classes: int, dtype: torch.dtype, backend: str
    ) -> Tensor:
        ctx.save_for_backward(labels)
        ctx.dtype = rows.dtype
        result: Tensor = _operator("class_sums", backend)(rows.detach(), labels, classes, dtype)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        # the derivative is a gather, which autograd can differentiate again
        (labels,) = ctx.saved_tensors
        known = (labels >= 0) & (labels < len(grads[0]))
        gradient = grads[0].index_select(0, torch.where(known, labels, 0)).to(ctx.dtype)
        return torch.where(known[:, None], gradient, 0), None, None, None, None


class _ListedDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, points: Tensor, listed: Tensor, backend: str) -> Tensor:
        found: Tensor = _operator("listed_distances", backend)(rows, points, listed)
        ctx.save_for_backward(rows, points, listed, found)
        ctx.backend = backend
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        operator = _operator("listed_gradients", ctx.backend)
        return (*_gradients(ctx, operator, grads[0], *ctx.saved_tensors), None, None)


class _HingeSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        points: Tensor,
        own: Tensor,
        limits: Tensor,
        product: torch.dtype,
        backend: str,
    ) -> Tensor:
        sums, counts = _operator("hinge_sums", backend)(rows, points, own, limits, product)
        ctx.save_for_backward(rows, points, own, limits, counts)
        ctx.product, ctx.backend = product, backend
        result: Tensor = sums
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        *saved, counts = ctx.saved_tensors
        operator = _operator("hinge_gradients", ctx.backend)
        found = (None, None)
        if any(ctx.needs_input_grad[:2]):
            found = _gradients(ctx, operator, grads[0], *saved, ctx.product)
        return (*found, None, grads[0] * counts if ctx.needs_input_grad[3] else None, None, None)


def _gradients(ctx: Any, operator: Any, *arguments: Any) -> tuple[Any, ...]:
    """The gradients of rows and points that are needed, None for the others."""
    needs = ctx.needs_input_grad[:2]
    found = _Gradients.apply(operator, *arguments, *needs)
    return tuple(grad if need else None for grad, need in zip(found, needs, strict=True))


class _Gradients(torch.autograd.Function):
    """A backward operator, which refuses a second derivative by name."""

    @staticmethod
    def forward(ctx: FunctionCtx, operator: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = operator(*arguments)
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            "the fused centroid losses can be differentiated once, not twice; for second derivatives run the "
            "loss under fastdml.use_backend('reference')"
        )
