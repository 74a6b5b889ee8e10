"""Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv 2004.11362)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastdml.rules.base import PairRule, PairStatistics, RowLosses, element, zero_unless
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import Exponential


@dataclass(frozen=True)
class SupCon(PairRule):
    """Mean over the positives of ``-log softmax`` over all other candidates, of every anchor.

    An anchor without a positive has loss 0, and so has every anchor of a batch without a negative pair.

    Args:
        temperature: what similarities are divided by; positive.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a positive number, got {self.temperature!r}")

    def terms(self, closeness: Closeness) -> Exponential:
        slope = 1 / self.temperature
        return Exponential.of(closeness, (slope, 0.0), (slope, 0.0))

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        terms = self.terms(closeness)
        positives = statistics.positives
        denominator = torch.logaddexp(
            terms.positive_logsumexp(statistics, -math.inf),
            # an anchor that lacks negatives has its positives alone in the denominator
            terms.negative_logsumexp(statistics, LEAST_LOGARITHM),
        )
        mean = statistics.positive_second / (self.temperature * positives.clamp_min(1))
        some = (positives > 0) & (statistics.negatives.sum() > 0)
        return element(zero_unless(some, denominator - mean))


# far below any exponent, and finite: logaddexp has no gradient at two infinities
LEAST_LOGARITHM = -1e30
