"""Multi-Similarity: pair weighting by three similarities (CVPR 2019, arXiv 1904.06627)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastdml.rules.base import PairRule, PairStatistics, RowLosses, element
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import Exponential, log_one_plus


@dataclass(frozen=True)
class MultiSimilarity(PairRule):
    """``1/a log(1 + sum_P e^{-a(S - l)}) + 1/b log(1 + sum_N e^{b(S - l)})`` for every anchor.

    Args:
        alpha: ``a``, the sharpness of the positive term; positive.
        beta: ``b``, the sharpness of the negative term; positive.
        base: ``l``, the similarity (or distance) at which a pair starts to count.
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

    def terms(self, closeness: Closeness) -> Exponential:
        base = closeness.sign * self.base
        return Exponential.of(
            closeness, (self.beta, -self.beta * base), (-self.alpha, self.alpha * base), adds_one=True
        )

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        terms = self.terms(closeness)
        if terms.is_unshifted:
            push, pull = torch.log1p(statistics.negative_sum), torch.log1p(statistics.positive_sum)
        else:
            push = log_one_plus(terms.negative_logsumexp(statistics, -math.inf))
            pull = log_one_plus(terms.positive_logsumexp(statistics, -math.inf))
        return element(push / self.beta + pull / self.alpha)
