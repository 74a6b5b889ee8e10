"""Contrastive loss (Hadsell, Chopra and LeCun, CVPR 2006)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastdml.rules.base import PairRule, PairStatistics, RowLosses
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import Hinge


@dataclass(frozen=True)
class Contrastive(PairRule):
    """``[pos_margin - c]_+`` of every positive and ``[c - neg_margin]_+`` of every negative, c the closeness.

    Or half the squares of these.

    Args:
        pos_margin: similarity above (distance below) which a positive costs nothing.
        neg_margin: similarity below (distance above) which a negative costs nothing.
        squared: half the squares.
        low, high: losses of pairs outside these, or equal to one, are neither summed nor counted.
    """

    pos_margin: float = 0.0
    neg_margin: float = 1.0
    squared: bool = False
    low: float = -math.inf
    high: float = math.inf

    counts_duplicates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in ("pos_margin", "neg_margin"):
            if not math.isfinite(getattr(self, field)):
                raise ValueError(f"{field} must be a finite number, got {getattr(self, field)!r}")

    def terms(self, closeness: Closeness) -> Hinge:
        sign = closeness.sign
        low, high = self.low, self.high
        if self.squared:  # the terms compare v, not v^2 / 2
            low, high = (math.copysign(math.sqrt(2 * abs(bound)), bound) for bound in (low, high))
        return Hinge(-sign * self.neg_margin, sign * self.pos_margin, low, high, float(self.squared))

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        return {
            "pos_loss": RowLosses(statistics.positive_sum, statistics.positive_second, "pos_pair"),
            "neg_loss": RowLosses(statistics.negative_sum, statistics.negative_second, "neg_pair"),
        }
