"""Multi-Similarity with mining as a good user would write it in plain PyTorch: exact, and never N x N.

Row blocks of similarities, recomputed in the backward. One exponential serves positives and negatives, for a
pair is never both; no sum can overflow, for |S| <= 1.
"""

from __future__ import annotations

import math
from typing import Any

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
        rows = torch.empty(4, len(unit), dtype=torch.float32, device=unit.device)
        if unit.dtype == torch.float64:
            rows = rows.double()
        for block in _blocks(unit):
            similarity, same, own = _compare(unit, labels, block)
            rows[0, block] = similarity.masked_fill(~same | own, math.inf).amin(dim=1)
            rows[1, block] = similarity.masked_fill(same, -math.inf).amax(dim=1)
            terms = _kept_terms(similarity, same, own, rows[:2, block])
            positives = terms.masked_fill(~same, 0).sum(dim=1)
            rows[2, block] = 1 + positives
            rows[3, block] = 1 + terms.masked_fill_(same, 0).sum(dim=1)
        ctx.save_for_backward(unit, labels, rows)
        return rows[2].log() / ALPHA + rows[3].log() / BETA

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        unit, labels, rows = ctx.saved_tensors
        result = torch.zeros_like(unit, dtype=rows.dtype)
        for block in _blocks(unit):
            similarity, same, own = _compare(unit, labels, block)
            weights = _kept_terms(similarity, same, own, rows[:2, block])
            pull = (-grads[0] / rows[2])[block, None]
            push = (grads[0] / rows[3])[block, None]
            weights = (weights * torch.where(same, pull, push)).to(unit.dtype)
            result[block] += weights @ unit
            result += weights.T @ unit[block]
        return result.to(unit.dtype), None


def _blocks(unit: Tensor) -> list[slice]:
    count = len(unit)
    rows = max(16, BLOCK_ELEMENTS[unit.device.type] // max(1, count))
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _compare(unit: Tensor, labels: Tensor, block: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of a block's rows to all, and masks: of one class, and of one row with itself."""
    similarity = unit[block] @ unit.T
    if similarity.dtype != torch.float64:
        similarity = similarity.float()
    same = labels[block, None] == labels[None, :]
    index = torch.arange(len(unit), device=unit.device)
    return similarity, same, index[block, None] == index[None, :]


def _kept_terms(similarity: Tensor, same: Tensor, own: Tensor, limits: Tensor) -> Tensor:
    """``e^{-alpha (S - base)}`` on mined positives, ``e^{beta (S - base)}`` on mined negatives, else 0."""
    least, most = limits[0, :, None], limits[1, :, None]
    kept = torch.where(same, similarity - EPSILON < most, similarity + EPSILON > least) & ~own
    terms = (similarity - BASE).mul_(torch.where(same, -ALPHA, BETA)).exp_()
    return terms.masked_fill_(~kept, 0)
