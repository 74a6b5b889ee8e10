"""What the proxy engine asks of a loss: how a class is compared, and what the sums of a sample are worth."""

from __future__ import annotations

import math
from abc import ABC
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.errors import InputError

SHARPEST = 1e-30
"""An inner temperature below this is the closest centre alone: its inverse would leave float32."""
APART = 1e-5
"""Added under the root of a distance of centres, so that its gradient is finite where they have merged."""


class Centres(NamedTuple):
    """How the centres of a class are stored and compared.

    The similarity of a sample x and class c is ``S_c = sum_k softmax_k(s_ck / gamma) s_ck`` of its inner
    products ``s_ck = <x, w_ck>``.
    """

    per_class: int = 1
    """K: centres of one class stand together."""
    gamma: float = 0.0
    """Temperature of the inner softmax; 0: the most similar centre alone, the first of equals."""
    columns: bool = False
    """Whether a centre is a column, of [D, C K], not a row of [C K, D]."""
    normalised: bool = True
    """Whether centres are scaled to length one first."""

    @property
    def soft(self) -> bool:
        """Whether a class is compared by more than its closest centre."""
        return self.per_class > 1 and self.gamma > SHARPEST

    def pooled(self, similarities: Tensor) -> Tensor:
        """[..., C] from the similarities [..., C, K] of the centres."""
        if self.per_class == 1:
            return similarities.squeeze(-1)
        if not self.soft:
            return similarities.max(dim=-1).values
        return (torch.softmax(similarities / self.gamma, dim=-1) * similarities).sum(dim=-1)


class ProxyStatistics(NamedTuple):
    """What the engine gathers of every sample, [B] each, and of every class; gradients flow through all."""

    others: Tensor
    """``log sum_{c != y} exp(scale S_c)``; -inf where there is no other class."""
    target: Tensor
    """``S_y``; 0 where the label is none of the classes."""
    total: Tensor
    """``sum_c S_c`` over all classes, or ``sum_c q_c S_c`` where every sample has shares of classes."""
    spread: Tensor
    """[C], ``sum_{t<s} sqrt(2 + 1e-5 - 2 <w_c^s, w_c^t>)`` of the centres of each class, or [0]."""


class ProxyRule(ABC):
    """A loss that compares samples with centres of classes: softmax cross-entropy of scaled similarities.

    A subclass is a frozen dataclass with at least ``scale``, and the margin on the target.
    """

    scale: float
    """What similarities are multiplied with to give logits; positive and finite."""
    gamma: float = 0.0
    """Temperature of the inner softmax over the centres of a class."""
    keeps_lengths: ClassVar[bool] = False
    """Whether samples are compared at their own lengths, with centres of length one."""

    @property
    def linear(self) -> bool:
        """Whether the logit of the target is ``scale S_y``, as any other's, so that labels may be soft."""
        return True

    def target(self, similarity: Tensor, lengths: Tensor | None) -> Tensor:
        """The similarity of the target with its margin.

        Args:
            similarity: [B].
            lengths: those of the samples, [B], where the rule keeps them.
        """
        del lengths
        return similarity

    def value(
        self, statistics: ProxyStatistics, classes: int, smoothing: float = 0.0, lengths: Tensor | None = None
    ) -> Tensor:
        """The loss of every sample, [B].

        Args:
            statistics: of the samples.
            classes: their number.
            smoothing: the share of every label that is spread evenly over all classes.
            lengths: those of the samples, [B], where the rule keeps them.
        """
        logit = self.scale * self.target(statistics.target, lengths)
        excess = statistics.others - logit
        losses = F.softplus(excess, threshold=80)
        if not smoothing:
            return losses
        mean = (self.scale * (statistics.total - statistics.target) + logit) / classes
        return losses + smoothing * (logit - mean)

    def soft_value(self, statistics: ProxyStatistics, mass: Tensor) -> Tensor:
        """The loss of samples whose label is a distribution: ``total`` is weighted by it, ``mass`` [B] is
        its sum, and ``others`` runs over all classes.
        """
        return mass * statistics.others - self.scale * statistics.total


def positive(name: str, value: float) -> float:
    """The value; raises InputError unless it is a positive, finite number."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a positive, finite number, got {value!r}")
    return value
