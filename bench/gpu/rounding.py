"""What plain PyTorch makes of products in 16 bits: factors are rounded, and so are gradients of products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fastdml.backends.centroid_reference import EUCLIDEAN


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` rounded to a dtype, in its own; gradients pass as they are."""
    found: Tensor = _Rounded.apply(x, dtype)
    return found


def with_rounded_gradient(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` as it is; its gradient is rounded to a dtype."""
    found: Tensor = _RoundedGradient.apply(x, dtype)
    return found


def product_of(backend: str, dtype: str) -> torch.dtype:
    """What the centroid engine makes products in that may be made in ``dtype``: all but Triton float32."""
    found: torch.dtype = getattr(torch, dtype if backend == "triton" else "float32")
    return found


def rounded_distances(rows: Tensor, points: Tensor, product: torch.dtype) -> Tensor:
    """[B, P] from products whose factors are rounded to ``product``, forward and backward."""
    rows, points = rounded(rows, product), rounded(points, product)
    products = with_rounded_gradient(rows @ points.T, product)
    squares, point_squares = (values.square().sum(dim=1) for values in (rows, points))
    return -EUCLIDEAN.of(products, squares[:, None], point_squares[None, :])


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _RoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].to(ctx.dtype).to(grads[0].dtype), None
