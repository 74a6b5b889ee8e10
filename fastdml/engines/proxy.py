"""The proxy engine: every sample against every centre of every class, in memory linear in both.

A class is compared by a softmax over its centres, the classes are summed by a log-sum-exp, and what the sums
are worth is plain PyTorch on [B] numbers (:mod:`fastdml.rules.proxy`). Nothing here holds B x C x K
similarities, except on the reference. Statistics of parts of the classes, such as those of other ranks,
combine to those of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fastdml.backends import proxy_blocked, proxy_reference, select  # noqa: F401  blocked defines operators
from fastdml.engines import proxy_ops  # noqa: F401  defines the operators
from fastdml.rules.proxy import Centres, ProxyStatistics


def proxy_statistics(
    rows: Tensor,
    centres: Tensor,
    labels: Tensor,
    how: Centres,
    *,
    scale: float = 1.0,
    shares: Tensor | None = None,
    spread: bool = False,
    product: torch.dtype | None = None,
) -> ProxyStatistics:
    """What a proxy loss needs to know of every sample, differentiable once in samples and centres.

    Args:
        rows: [B, D] samples as they are compared, float32 or float64.
        centres: [C K, D], or [D, C K] where ``how.columns``, as they are stored, the K centres of a class
            together; any floating dtype, which they keep.
        labels: [B], int64; -1: the sample's class is none of these.
        how: how centres are stored and compared.
        scale: what similarities are multiplied with under the log-sum-exp.
        shares: [B, C], what ``total`` weighs the classes of every sample by; None weighs all by 1. A
            constant: no gradient flows through it.
        spread: also sum the distances between the centres of every class, which must be ``normalised``.
        product: what a GPU may make products in, such as bfloat16; None is the dtype of the rows.

    Returns:
        Sums in the dtype of the rows.

    Raises:
        BackendError: the backend that was asked for cannot run here.
    """
    product = rows.dtype if product is None else product
    how = how._replace(gamma=how.gamma if how.soft else 0.0)
    backend = "reference"
    if rows.numel() and centres.numel():
        backend = select(rows.device.type, rows.dtype, lambda name: _unsupported(name, shares)).name
    if backend == "reference":
        return proxy_reference.proxy_statistics(rows, centres, labels, shares, how, scale, spread)
    if backend == "cpu":
        centres = centres.to(rows.dtype)
    settings = (how.per_class, how.columns, how.normalised, scale, how.gamma, product)
    return ProxyStatistics(*_ProxyStatistics.apply(rows, centres, labels, shares, backend, settings, spread))


def _unsupported(backend: str, shares: Tensor | None) -> str | None:
    """Why a backend cannot gather these statistics, None where it can."""
    if shares is not None and backend not in ("blocked", "reference"):
        return f"shares of classes have no {backend} kernels"
    return None


def combined(parts: Sequence[ProxyStatistics]) -> ProxyStatistics:
    """The statistics of all classes, from those of parts of them."""
    if len(parts) == 1:
        return parts[0]
    return ProxyStatistics(
        torch.stack([part.others for part in parts]).logsumexp(dim=0),
        torch.stack([part.target for part in parts]).sum(dim=0),
        torch.stack([part.total for part in parts]).sum(dim=0),
        torch.cat([part.spread for part in parts]),
    )


def _operator(direction: str, backend: str) -> Any:
    return getattr(torch.ops.fastdml, f"proxy_{direction}_{backend}").default


class _ProxyStatistics(torch.autograd.Function):
    """Saves what it was given, and two numbers beside: one a sample, one a centre."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        centres: Tensor,
        labels: Tensor,
        shares: Tensor | None,
        backend: str,
        settings: tuple[Any, ...],
        spread: bool,
    ) -> tuple[Tensor, ...]:
        *found, norms = _operator("forward", backend)(rows, centres, labels, shares, *settings, spread)
        ctx.save_for_backward(rows, centres, labels, shares, found[0], norms)
        ctx.backend, ctx.settings = backend, settings
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[:2]
        found = _ProxyGradients.apply(*grads, *ctx.saved_tensors, ctx.backend, ctx.settings, *needs)
        return (*(grad if need else None for grad, need in zip(found, needs, strict=True)), *[None] * 5)


class _ProxyGradients(torch.autograd.Function):
    """The backward operator, which refuses a second derivative by name."""

    @staticmethod
    def forward(ctx: FunctionCtx, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, backend, settings, need_rows, need_centres = arguments
        result: tuple[Tensor, Tensor] = _operator("backward", backend)(
            *tensors, *settings, need_rows, need_centres
        )
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            "the fused proxy losses can be differentiated once, not twice; for second derivatives run the "
            "loss under fastdml.use_backend('reference')"
        )
