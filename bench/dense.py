"""Multi-Similarity with mining over the whole N x N matrix, in plain PyTorch: what the formula says."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.blocked import ALPHA, BASE, BETA, EPSILON


def multi_similarity(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The loss of a batch [N, D] with labels [N], a scalar."""
    unit = F.normalize(embeddings, dim=1)
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return losses(unit @ unit.T, same & ~itself, ~same).mean()


def losses(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The losses [N] of similarities [N, M], of which two masks say which pairs are positive and negative."""
    fixed = similarity.detach()
    least = fixed.masked_fill(~positive, math.inf).amin(dim=1, keepdim=True)
    most = fixed.masked_fill(~negative, -math.inf).amax(dim=1, keepdim=True)
    pull = _log_one_plus_sum(ALPHA * (BASE - similarity), positive & (fixed - EPSILON < most)) / ALPHA
    push = _log_one_plus_sum(BETA * (similarity - BASE), negative & (fixed + EPSILON > least)) / BETA
    return pull + push


def _log_one_plus_sum(exponents: Tensor, keep: Tensor) -> Tensor:
    """``log(1 + sum of e^exponent over the kept columns)`` of every row."""
    one = exponents.new_zeros(exponents.shape[0], 1)
    return torch.logsumexp(torch.cat([exponents.masked_fill(~keep, -math.inf), one], dim=1), dim=1)
