"""What ranks exchange, differentiable: rows gathered from all ranks, and sums over them.

Every rank computes the same loss from what is gathered, so that a gradient that arrives from the loss is
already the same on every rank. Only what a rank computed from its own centres, or of its own anchors, is a
part, to be summed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastdml.errors import InputError

# torch 2.13 gave these two other names
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def rank_and_ranks(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Which rank of a group this is, and of how many; raises InputError where it is none."""
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "group must be a process group, got none: call torch.distributed.init_process_group first"
        )
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    if rank < 0:
        raise InputError("group must hold this rank, got one that does not")
    return rank, ranks


class Parts(NamedTuple):
    """How rows are divided over the ranks of a group."""

    counts: tuple[int, ...]
    """The rows of every rank."""
    rank: int
    """This one."""
    group: dist.ProcessGroup | None

    def own(self, rows: Tensor) -> Tensor:
        """This rank's of the rows of all."""
        return rows.split(self.counts)[self.rank]


def gathered(rows: Tensor, parts: Parts) -> Tensor:
    """The rows of all ranks, [sum of counts, ...], in the order of the ranks; no gradient."""
    most = max(parts.counts)
    if not most:
        return rows
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    everyone = rows.new_empty(len(parts.counts) * most, *rows.shape[1:])
    _all_gather(everyone, padded, group=parts.group)
    blocks = everyone.split(most)
    return torch.cat([block[:count] for block, count in zip(blocks, parts.counts, strict=True)])


def summed_own(rows: Tensor, parts: Parts) -> Tensor:
    """This rank's of the rows of all, [sum of counts, ...], summed over the ranks; no gradient."""
    most = max(parts.counts)
    if not most:
        return rows
    padded = rows.new_zeros(len(parts.counts), most, *rows.shape[1:])
    for block, part in zip(padded, rows.split(parts.counts), strict=True):
        block[: len(part)] = part
    own = torch.empty_like(padded[0])
    _reduce_scatter(own, padded.flatten(0, 1), group=parts.group)
    return own[: parts.counts[parts.rank]]


class GatheredEmbeddings(torch.autograd.Function):
    """Embeddings of all ranks, of which every rank has a part of the gradient; these are summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, parts: Parts, dtype: torch.dtype, factor: int) -> Tensor:
        """[sum of counts, D] of ``dtype``; gradients are summed in it, then multiplied by ``factor``."""
        ctx.parts, ctx.dtype, ctx.factor = parts, rows.dtype, factor
        return gathered(rows, parts).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        own = summed_own(grad, ctx.parts) * ctx.factor
        return own.to(ctx.dtype), None, None, None


class GatheredValues(torch.autograd.Function):
    """Values of all ranks, of which every rank has the whole gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, parts: Parts, factor: int = 1) -> Tensor:
        """[sum of counts, ...]; this rank's gradient is multiplied by ``factor``."""
        ctx.parts, ctx.factor = parts, factor
        return gathered(rows, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        own = ctx.parts.own(grad)
        return own if ctx.factor == 1 else own * ctx.factor, None, None


class AnchorsAndCandidates(torch.autograd.Function):
    """This rank's embeddings and those of all ranks, of which every rank has a part of the gradient."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, parts: Parts, dtype: torch.dtype, factor: int
    ) -> tuple[Tensor, Tensor]:
        """[n, D] and [sum of counts, D]; gradients of both are summed in ``dtype``, then multiplied by
        ``factor`` and rounded once.
        """
        ctx.parts, ctx.sums, ctx.dtype, ctx.factor = parts, dtype, rows.dtype, factor
        return rows.view_as(rows), gathered(rows, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_anchors: Tensor, grad_candidates: Tensor) -> tuple[Any, ...]:
        summed = summed_own(grad_candidates.to(ctx.sums), ctx.parts) + grad_anchors.to(ctx.sums)
        return (summed * ctx.factor).to(ctx.dtype), None, None, None


class WithSummedGradients(torch.autograd.Function):
    """Parameters, the same on all ranks, of whose gradient every rank has a part; these are summed."""

    @staticmethod
    def forward(ctx: Any, group: dist.ProcessGroup | None, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        summed = [grad.clone(memory_format=torch.contiguous_format) for grad in grads]
        for grad in summed:
            dist.all_reduce(grad, group=ctx.group)
        return None, *summed


class LogSumExpAndSum(torch.autograd.Function):
    """The log-sum-exp over ranks of some numbers and the sum of others: one all-reduce for the maximum, one
    for all sums.
    """

    @staticmethod
    def forward(
        ctx: Any, exponents: Tensor, terms: Tensor, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor]:
        top = exponents.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
        top = top.masked_fill(top.isinf(), 0)
        # a maximum may pass over NaN, this sum does not
        sums = torch.cat([(exponents - top).exp(), terms])
        dist.all_reduce(sums, group=group)
        result = top + sums[: len(top)].log()
        ctx.save_for_backward(exponents, result)
        return result, sums[len(top) :].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_result: Tensor, grad_sums: Tensor) -> tuple[Any, ...]:
        exponents, result = ctx.saved_tensors
        shares = (exponents - result.masked_fill(result.isinf(), 0)).exp()
        return grad_result * shares, grad_sums, None
