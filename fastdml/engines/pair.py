"""The pair engine: every anchor against every candidate, in memory linear in both.

A rule (:mod:`fastdml.rules`) says what a pair weighs; this module chooses the backend, runs its forward and
backward operators, and joins them for autograd. Nothing here holds an N x M matrix, except on the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fastdml.backends import reference, select
from fastdml.engines import pair_ops  # noqa: F401  defines the operators
from fastdml.rules import PairRule


def pair_losses(
    rule: PairRule,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
) -> Tensor:
    """Loss of every anchor by ``rule`` on cosine similarity, differentiable once in the embeddings.

    Args:
        embeddings: [N, D] anchors, of any length; they are normalised here.
        labels: [N], int64.
        ref_embeddings: [M, D] candidates; None compares the anchors with each other, none with itself.
        ref_labels: [M], int64; given exactly when ``ref_embeddings`` is.

    Returns:
        [N], the dtype of the embeddings on the reference, float32 or float64 elsewhere.

    Raises:
        BackendError: the backend that was asked for cannot run here.
    """
    if (ref_embeddings is not None and ref_embeddings.shape[0] == 0) or embeddings.numel() == 0:
        return reference.pair_losses(rule, embeddings, labels, ref_embeddings, ref_labels)
    backend = select(
        embeddings.device.type, embeddings.dtype, lambda name: rule.unsupported(name, embeddings.dtype)
    ).name
    if backend == "reference":
        return reference.pair_losses(rule, embeddings, labels, ref_embeddings, ref_labels)
    result: Tensor = _PairLosses.apply(
        embeddings, ref_embeddings, labels, ref_labels, backend, rule.name, rule.constants()
    )
    return result


def _operator(direction: str, backend: str) -> Any:
    return getattr(torch.ops.fastdml, f"pair_{direction}_{backend}").default


class _PairLosses(torch.autograd.Function):
    """Losses of the anchors; saves the sorted unit rows and a few numbers a row."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        ref_embeddings: Tensor | None,
        labels: Tensor,
        ref_labels: Tensor | None,
        backend: str,
        rule: str,
        constants: list[float],
    ) -> Tensor:
        needs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        losses, *saved = _operator("forward", backend)(
            embeddings, labels, ref_embeddings, ref_labels, rule, constants, needs
        )
        if needs:
            ctx.save_for_backward(embeddings, ref_embeddings, *saved)
            ctx.backend, ctx.rule, ctx.constants = backend, rule, constants
        result: Tensor = losses
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[:2]
        found = _PairGradients.apply(
            grads[0], *ctx.saved_tensors, ctx.backend, ctx.rule, ctx.constants, *needs
        )
        dtype = ctx.saved_tensors[0].dtype
        return (
            *(grad.to(dtype) if need else None for grad, need in zip(found, needs, strict=True)),
            None,
            None,
            None,
            None,
            None,
        )


class _PairGradients(torch.autograd.Function):
    """The backward operator. It takes the embeddings only to refuse, by name, a second derivative in them."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        grad_losses: Tensor,
        embeddings: Tensor,
        ref_embeddings: Tensor | None,
        units: Tensor,
        norms: Tensor,
        order: Tensor,
        spans: Tensor,
        rows: Tensor,
        tiles: Tensor,
        backend: str,
        rule: str,
        constants: list[float],
        need_anchors: bool,
        need_candidates: bool,
    ) -> tuple[Tensor, Tensor]:
        del embeddings, ref_embeddings
        result: tuple[Tensor, Tensor] = _operator("backward", backend)(
            grad_losses.contiguous(),
            units,
            norms,
            order,
            spans,
            rows,
            tiles,
            rule,
            constants,
            need_anchors,
            need_candidates,
        )
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            "the fused pair losses can be differentiated once, not twice; for second derivatives run the "
            "loss under fastdml.use_backend('reference')"
        )
