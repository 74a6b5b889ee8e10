"""Circle loss (Sun et al., CVPR 2020, arXiv 2002.10857)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fastdml.rules.base import PairRule, PairStatistics, RowLosses, element, zero_unless
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import CircleTerms


@dataclass(frozen=True)
class Circle(PairRule):
    """``softplus(LSE_N g[S+m]_+(S-m) + LSE_P -g[1+m-S]_+(S-1+m))``, the factors in brackets constants.

    An anchor that lacks a positive or a negative has loss 0. On cosine similarity only.

    Args:
        m: relaxation, the radius of the decision boundary.
        gamma: scale, positive.
    """

    m: float = 0.4
    gamma: float = 80.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.m):
            raise ValueError(f"m must be a finite number, got {self.m!r}")
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ValueError(f"gamma must be a positive number, got {self.gamma!r}")

    def terms(self, closeness: Closeness) -> CircleTerms:
        if closeness.kind != "inner":
            raise ValueError(f"closeness must be a similarity for the circle loss, got {closeness.kind!r}")
        return CircleTerms.of(self.gamma, self.m)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        terms = self.terms(closeness)
        both = (statistics.positives > 0) & (statistics.negatives > 0)
        one = torch.ones_like(statistics.negative_sum)
        push = torch.where(both, statistics.negative_sum, one).log()
        pull = torch.where(both, statistics.positive_sum, one).log()
        rows = torch.where(both, statistics.negative_row + statistics.positive_row, 0)
        exponent = push + pull + (rows + terms.negative_shift)
        return element(zero_unless(both, F.softplus(exponent, threshold=40)))
