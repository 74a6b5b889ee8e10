"""Multi-Similarity with mining as a good user would write it in plain PyTorch: exact, and never N x N.

Row blocks of similarities, recomputed in the backward. Positives are few, so they are picked out; what is no
mined negative becomes -infinity, whose exponential is 0. No sum can overflow, for |S| <= 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA, BETA, BASE, EPSILON = 2.0, 50.0, 0.5, 0.1
BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Similarities a block: a few caches' worth on a CPU, enough to fill a GPU."""


def multi_similarity(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The loss of a batch [N, D] with labels [N], a scalar."""
    losses: Tensor = _BlockedLosses.apply(F.normalize(embeddings, dim=1), labels)
    return losses.mean()


class _BlockedLosses(torch.autograd.Function):
    """Losses [N] of unit rows [N, D]."""

    @staticmethod
    def forward(ctx: Any, unit: Tensor, labels: Tensor) -> Tensor:
        # Per row: least similar positive, most similar negative, 1 + sum over kept positives, over negatives.
        dtype = unit.dtype if unit.dtype == torch.float64 else torch.float32
        least = torch.full((len(unit),), math.inf, dtype=dtype, device=unit.device)
        most, pulls, pushes = torch.empty_like(least), torch.ones_like(least), torch.ones_like(least)
        for block in _blocks(unit):
            found = _compare(unit, labels, block, dtype)
            least[block].scatter_reduce_(0, found.rows, found.positives, "amin")
            most[block] = found.negatives.amax(dim=1)
            pulls[block].index_add_(0, found.rows, _positive_terms(found, most[block]))
            pushes[block] += _negative_terms(found, least[block]).sum(dim=1)
        ctx.save_for_backward(unit, labels, least, most, pulls, pushes)
        return pulls.log() / ALPHA + pushes.log() / BETA

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        unit, labels, least, most, pulls, pushes = ctx.saved_tensors
        pull, push = -grads[0] / pulls, grads[0] / pushes
        result = torch.zeros_like(unit, dtype=least.dtype)
        for block in _blocks(unit):
            found = _compare(unit, labels, block, least.dtype)
            weights = _negative_terms(found, least[block]).mul_(push[block, None])
            weights[found.rows, found.columns] = _positive_terms(found, most[block]) * pull[block][found.rows]
            weights = weights.to(unit.dtype)
            result[block] += weights @ unit
            result += weights.T @ unit[block]
        return result.to(unit.dtype), None


class _Compared(NamedTuple):
    """Rows of a block against all: positives by place and value; similarities of negatives, else -inf."""

    rows: Tensor
    columns: Tensor
    positives: Tensor
    negatives: Tensor


def _blocks(unit: Tensor) -> list[slice]:
    count = len(unit)
    rows = max(16, BLOCK_ELEMENTS[unit.device.type] // max(1, count))
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _compare(unit: Tensor, labels: Tensor, block: slice, dtype: torch.dtype) -> _Compared:
    similarity = (unit[block] @ unit.T).to(dtype)
    same = labels[block, None] == labels[None, :]
    rows, columns = same.nonzero(as_tuple=True)
    positives = similarity[rows, columns]
    similarity[rows, columns] = -math.inf
    others = columns != rows + block.start
    return _Compared(rows[others], columns[others], positives[others], similarity)


def _positive_terms(found: _Compared, most: Tensor) -> Tensor:
    """``e^{-alpha (S - base)}`` of the mined positives, 0 of the others."""
    dropped = found.positives - EPSILON >= most[found.rows]
    return (-ALPHA * (found.positives - BASE)).exp_().masked_fill_(dropped, 0)


def _negative_terms(found: _Compared, least: Tensor) -> Tensor:
    """``e^{beta (S - base)}`` of the mined negatives, 0 of the others."""
    mined = found.negatives > (least - EPSILON)[:, None]
    return torch.where(mined, found.negatives, -math.inf).mul_(BETA).sub_(BETA * BASE).exp_()
