"""Margin loss with one boundary for all classes or one for each (Wu et al., ICCV 2017, arXiv 1706.07567)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastdml.rules.base import PairRule, PairStatistics, RowLosses
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import Hinge


@dataclass(frozen=True)
class Margin(PairRule):
    """``[d_ap - beta + margin]_+ + [beta - d_an + margin]_+`` over the triplets of an anchor.

    The engine's ``row`` is the closeness that ``beta`` stands for, one of each anchor.

    Args:
        margin: half the width of the band around beta in which pairs cost.
        low: -inf counts every triplet, 0 those of a loss above 0. Their sum is the same.
    """

    margin: float = 0.2
    low: float = -math.inf

    counts_duplicates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin):
            raise ValueError(f"margin must be a finite number, got {self.margin!r}")

    def terms(self, closeness: Closeness) -> Hinge:
        return Hinge(self.margin, self.margin, 0.0)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        # every kept positive of an anchor meets every kept negative
        positives, negatives = statistics.positives, statistics.negatives
        total = statistics.positive_sum * negatives + statistics.negative_sum * positives
        pulled, pushed = statistics.positive_second, statistics.negative_second
        # the terms take the row as a constant; its gradient is added, of value zero
        row = statistics.negative_row
        slope = pulled * negatives - pushed * positives
        total = total + slope.detach() * (row - row.detach())
        count = positives * negatives
        if self.low == 0:
            count = count - (positives - pulled) * (negatives - pushed)
        divisor = (pulled * negatives + pushed * positives).sum()
        return {"margin_loss": RowLosses(total, count, "triplet", divisor)}
