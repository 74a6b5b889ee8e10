"""The proxy engine's dense form in plain PyTorch: any dtype, differentiable by autograd."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.rules.proxy import APART, Centres, ProxyStatistics


def proxy_statistics(
    rows: Tensor,
    centres: Tensor,
    labels: Tensor,
    shares: Tensor | None,
    how: Centres,
    scale: float,
    spread: bool,
) -> ProxyStatistics:
    """What :func:`fastdml.engines.proxy.proxy_statistics` returns, holding all similarities [B, C, K]."""
    with torch.autocast(rows.device.type, enabled=False):
        units = compared_centres(centres, how, rows.dtype)
        classes = len(units) // how.per_class
        similarities = how.pooled((rows @ units.T).unflatten(1, (classes, how.per_class)))
        own = labels[:, None] == torch.arange(classes, device=labels.device)[None, :]
        poison = (rows * 0).sum(dim=1) + (units * 0).sum()
        return ProxyStatistics(
            (scale * similarities).masked_fill(own, -math.inf).logsumexp(dim=1) + poison,
            torch.where(own, similarities, 0).sum(dim=1) + poison,
            (similarities if shares is None else similarities * shares).sum(dim=1) + poison,
            spread_of_classes(units.unflatten(0, (classes, how.per_class))) if spread else units.new_empty(0),
        )


def compared_centres(centres: Tensor, how: Centres, dtype: torch.dtype) -> Tensor:
    """[C K, D] in ``dtype``, as they are compared."""
    rows = (centres.T if how.columns else centres).to(dtype)
    return F.normalize(rows, dim=1) if how.normalised else rows


def spread_of_classes(units: Tensor) -> Tensor:
    """[C] from unit centres [C, K, D]: the distances of the centres of each class, summed."""
    count = units.shape[1]
    gram = units @ units.transpose(1, 2)
    later, earlier = torch.tril_indices(count, count, offset=-1, device=units.device)
    return (2 + APART - 2 * gram[:, later, earlier]).sqrt().sum(dim=1)
