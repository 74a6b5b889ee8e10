"""NT-Xent, also called InfoNCE (arXiv 1807.03748, 2002.05709); N-pairs with one positive a class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastdml.rules.base import PairRule, PairStatistics, RowLosses
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import InfoNCE


@dataclass(frozen=True)
class NTXent(PairRule):
    """``-log(e^{S_ap/T} / (e^{S_ap/T} + sum_N e^{S_an/T}))`` of every positive pair.

    Args:
        temperature: ``T``, positive.
    """

    temperature: float = 0.07

    counts_duplicates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a positive number, got {self.temperature!r}")

    def terms(self, closeness: Closeness) -> InfoNCE:
        return InfoNCE.of(closeness, self.temperature)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        # the terms take the negatives' log-sum-exp as a constant; its gradient is added, of value zero
        negatives = statistics.negative_sum
        share = statistics.positive_second.detach() / negatives.detach().where(negatives > 0, 1)
        total = statistics.positive_sum + share * (negatives - negatives.detach())
        return {"loss": RowLosses(total, statistics.positives, "pos_pair")}
