"""Generalised lifted structure loss (Hermans, Beyer and Leibe, 2017, arXiv 1703.07737, page 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastdml.rules.base import PairRule, PairStatistics, RowLosses, element
from fastdml.rules.closeness import Closeness
from fastdml.rules.terms import Exponential


@dataclass(frozen=True)
class GeneralizedLiftedStructure(PairRule):
    """``[log sum_P e^{D - pos_margin} + log sum_N e^{neg_margin - D}]_+`` for every anchor, D the distance.

    A side without a pair counts 0 inside the bracket.

    Args:
        neg_margin: distance (or similarity) up to which negatives are pushed.
        pos_margin: distance (or similarity) from which on positives are pulled.
    """

    neg_margin: float = 1.0
    pos_margin: float = 0.0

    def __post_init__(self) -> None:
        for field in ("pos_margin", "neg_margin"):
            if not math.isfinite(getattr(self, field)):
                raise ValueError(f"{field} must be a finite number, got {getattr(self, field)!r}")

    def terms(self, closeness: Closeness) -> Exponential:
        sign = closeness.sign
        return Exponential.of(closeness, (1.0, -sign * self.neg_margin), (-1.0, sign * self.pos_margin))

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        terms = self.terms(closeness)
        return element(
            torch.relu(terms.positive_logsumexp(statistics) + terms.negative_logsumexp(statistics))
        )
