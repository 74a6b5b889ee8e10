"""Margin loss with one boundary for all classes or one for each (Wu et al., ICCV 2017, arXiv 1706.07567)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fastdml.rules.base import PairRule, PairStatistics, RowLosses
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import Hinge


@dataclass(frozen=True)
class Margin(PairRule):
    """``[d_ap - beta + margin]_+ + [beta - d_an + margin]_+`` over triplets, or over pairs where those are listed.

    The engine's ``row`` is the closeness that ``beta`` stands for, one of each anchor.

    Args:
        margin: half the width of the band around beta in which pairs cost.
        over_pairs: statistics come from a list of triplets, each a positive and a negative pair; else every
            kept positive of an anchor meets every kept negative.
    """

    margin: float = 0.2
    over_pairs: bool = False

    counts_duplicates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin):
            raise ValueError(f"margin must be a finite number, got {self.margin!r}")

    def terms(self, closeness: Closeness) -> Hinge:
        return Hinge(self.margin, self.margin, 0.0)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        pulls, pushes = self.meetings(statistics)
        total = statistics.positive_sum * pulls + statistics.negative_sum * pushes
        # the terms take the row as a constant; its gradient is added, of value zero
        row = statistics.negative_row
        slope = statistics.positive_second * pulls - statistics.negative_second * pushes
        total = total + slope.detach() * (row - row.detach())
        count = statistics.positive_second * pulls + statistics.negative_second * pushes
        return {"margin_loss": RowLosses(total, count, "triplet")}

    def meetings(self, statistics: PairStatistics) -> tuple[Tensor | float, Tensor | float]:
        """In how many triplets each kept positive, and each kept negative, of an anchor stands."""
        return (1.0, 1.0) if self.over_pairs else (statistics.negatives, statistics.positives)
