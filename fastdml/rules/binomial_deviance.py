"""Binomial deviance (Yi et al., ICPR 2014, arXiv 1407.4979; as compared in arXiv 1904.06627)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastdml.rules.base import PairRule, PairStatistics, RowLosses, element
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import Softplus


@dataclass(frozen=True)
class BinomialDeviance(PairRule):
    """``mean_P log(1 + e^{a(l - S)}) + mean_N log(1 + e^{b(S - l)})`` for every anchor.

    Args:
        alpha: ``a``, the sharpness of the positive term; positive.
        beta: ``b``, the sharpness of the negative term; positive.
        base: ``l``, the similarity (or distance) between the two.
    """

    alpha: float = 2.0
    beta: float = 50.0
    base: float = 0.5

    def __post_init__(self) -> None:
        for field in ("alpha", "beta"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field} must be a positive number, got {value!r}")
        if not math.isfinite(self.base):
            raise ValueError(f"base must be a finite number, got {self.base!r}")

    def terms(self, closeness: Closeness) -> Softplus:
        base = closeness.sign * self.base
        return Softplus(self.beta, -self.beta * base, -self.alpha, self.alpha * base)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        pull = statistics.positive_sum / statistics.positives.clamp_min(1)
        push = statistics.negative_sum / statistics.negatives.clamp_min(1)
        return element(pull + push)
