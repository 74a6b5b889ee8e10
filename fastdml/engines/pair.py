"""The pair engine: every anchor against every candidate, in memory linear in both.

A rule (:mod:`fastdml.rules`) says what a pair adds to the sums of its anchor; this module chooses the
backend, runs its forward and backward operators, and joins them for autograd. What the sums are worth is
plain PyTorch on [N] numbers. Nothing here holds an N x M matrix, except on the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fastdml.backends import blocked, reference, select  # noqa: F401  blocked defines its operators
from fastdml.backends.dtypes import accumulator
from fastdml.engines import pair_ops  # noqa: F401  defines the operators
from fastdml.rules import (
    COSINE,
    EVERYTHING,
    Closeness,
    Extremes,
    PairRule,
    PairStatistics,
    RowLosses,
    Selection,
)
from fastdml.rules.base import PairTerms


def pair_losses(
    rule: PairRule,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    closeness: Closeness = COSINE,
    own: Tensor | None = None,
    row: Tensor | None = None,
    selection: Selection = EVERYTHING,
) -> dict[str, RowLosses]:
    """The losses of every anchor by ``rule``; the arguments are those of :func:`pair_statistics`."""
    statistics = pair_statistics(
        rule, embeddings, labels, ref_embeddings, ref_labels,
        closeness=closeness, own=own, row=row, selection=selection,
    )  # fmt: skip
    return rule.value(statistics, closeness)


def pair_statistics(
    rule: PairRule,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    closeness: Closeness = COSINE,
    own: Tensor | None = None,
    row: Tensor | None = None,
    selection: Selection = EVERYTHING,
) -> PairStatistics:
    """What ``rule`` sums over the pairs of every anchor, differentiable once in the embeddings.

    Args:
        embeddings: [N, D] anchors, of any length; normalised here where the closeness asks for it.
        labels: [N], int64.
        ref_embeddings: [M, D] candidates; None compares the anchors with each other, none with itself.
        ref_labels: [M], int64; given exactly when ``ref_embeddings`` is.
        closeness: what pairs are compared by.
        own: [N], int64, with candidates: the candidate that each anchor itself is, which is no pair; -1:
        none.
        row: [N], one number of each anchor for the rule's terms; None is 0. Gradients flow into it where the
            rule's value lets them.
        selection: which pairs count.

    Returns:
        Sums in the dtype of the embeddings on the reference, float32 or float64 elsewhere.

    Raises:
        BackendError: the backend that was asked for cannot run here.
    """
    terms = rule.terms(closeness)
    dtype = embeddings.dtype
    if row is None:
        row = embeddings.new_zeros(embeddings.shape[0], dtype=accumulator(dtype))
    nothing = (ref_embeddings is not None and ref_embeddings.shape[0] == 0) or embeddings.numel() == 0
    backend = "reference"
    if not nothing:
        backend = select(
            embeddings.device.type, dtype, lambda name: rule.unsupported(closeness, name, dtype)
        ).name
    if backend == "reference":
        return reference.pair_statistics(
            terms, closeness, selection, row, embeddings, labels, ref_embeddings, ref_labels, own
        )
    row = row.to(accumulator(dtype))
    *sums, statistics = _PairStatistics.apply(
        embeddings, ref_embeddings, labels, ref_labels, own, row.detach(), backend,
        terms.name, terms.constants(), selection.constants(), closeness.code,
    )  # fmt: skip
    return _with_rows(terms, sums, statistics.unbind(0), row, backend)


def _with_rows(
    terms: PairTerms, sums: list[Tensor], statistics: tuple[Tensor, ...], row: Tensor, backend: str
) -> PairStatistics:
    """Adds the numbers of each anchor that its terms were given; the native backends do not return them.

    Args:
        sums: the three that gradients flow through.
        statistics: all of them as the operator returns them, constants.
    """
    extremes = Extremes(statistics[5], None, statistics[4])
    negative_row = row
    if backend == "blocked":
        extremes = extremes._replace(most_positive=statistics[8])
        negative_row = terms.negative_row(row, extremes)
    positive_row = terms.positive_row(row, extremes, statistics[0], negative_row.detach())
    negative_sum, positive_sum, positive_second = sums
    return PairStatistics._make(
        (
            negative_sum,
            statistics[1],
            positive_sum,
            positive_second,
            *statistics[4:8],
            negative_row,
            positive_row,
        )
    )


def _operator(direction: str, backend: str) -> Any:
    return getattr(torch.ops.fastdml, f"pair_{direction}_{backend}").default


class _PairStatistics(torch.autograd.Function):
    """Statistics of the anchors; saves the sorted unit rows and a few numbers a row.

    Returns the three sums that gradients flow through, [N] each, and all statistics as constants.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        ref_embeddings: Tensor | None,
        labels: Tensor,
        ref_labels: Tensor | None,
        own: Tensor | None,
        row: Tensor,
        backend: str,
        *rule: Any,
    ) -> tuple[Tensor, ...]:
        needs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        statistics, *saved = _operator("forward", backend)(
            embeddings, labels, ref_embeddings, ref_labels, own, row, *rule, needs
        )
        if needs:
            if backend == "blocked":
                saved = [labels, ref_labels, own, *saved]
            elif not ctx.needs_input_grad[1]:
                ref_embeddings = None  # a memory of past batches may change before the backward
            ctx.save_for_backward(embeddings, ref_embeddings, *saved)
            ctx.backend, ctx.rule = backend, rule
        ctx.mark_non_differentiable(statistics)
        if not torch.compiler.is_compiling():
            ctx.set_materialize_grads(False)  # a compiler drops zeros that nobody reads; nobody else does
        return statistics[0], statistics[2], statistics[3], statistics

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[:2]
        some = next((grad for grad in grads[:3] if grad is not None), None)
        if some is None:
            return (None,) * (7 + len(ctx.rule))
        wanted = torch.stack([torch.zeros_like(some) if grad is None else grad for grad in grads[:3]])
        # only with create_graph is there a second derivative to refuse
        run = _PairGradients.apply if torch.is_grad_enabled() else _pair_gradients
        found = run(wanted, *ctx.saved_tensors, ctx.backend, *ctx.rule, *needs)
        dtype = ctx.saved_tensors[0].dtype
        return (
            *(grad.to(dtype) if need else None for grad, need in zip(found, needs, strict=True)),
            *[None] * (5 + len(ctx.rule)),
        )


def _pair_gradients(
    grad_statistics: Tensor, embeddings: Tensor, ref_embeddings: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Calls the backward operator; ``rest`` is what the forward saved, the backend, and further arguments."""
    backend_at = next(i for i, value in enumerate(rest) if isinstance(value, str))
    saved, backend, arguments = rest[:backend_at], rest[backend_at], rest[backend_at + 1 :]
    if backend == "blocked":
        saved = (embeddings, ref_embeddings, *saved)
    result: tuple[Tensor, Tensor] = _operator("backward", backend)(grad_statistics, *saved, *arguments)
    return result


class _PairGradients(torch.autograd.Function):
    """The backward operator. It takes the embeddings also to refuse, by name, a second derivative in them."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        grad_statistics: Tensor,
        embeddings: Tensor,
        ref_embeddings: Tensor | None,
        *rest: Any,
    ) -> tuple[Tensor, Tensor]:
        return _pair_gradients(grad_statistics, embeddings, ref_embeddings, *rest)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            "the fused pair losses can be differentiated once, not twice; for second derivatives run the "
            "loss under fastdml.use_backend('reference')"
        )
