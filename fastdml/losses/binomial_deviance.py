"""Binomial deviance loss (Yi et al., ICPR 2014, arXiv 1407.4979)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from fastdml.distances import CosineSimilarity
from fastdml.losses.base import PairLoss
from fastdml.rules import BinomialDeviance


class BinomialDevianceLoss(PairLoss):
    """``mean_P log(1 + e^{alpha (base - S)}) + mean_N log(1 + e^{beta (S - base)})``.

    Averaged over all anchors; S is the cosine similarity. Yi et al., arXiv 1407.4979, in the form of the GPW
    paper (arXiv 1904.06627, section 3.1), whose defaults these are; pytorch-metric-learning has no such loss.

    Args:
        alpha: sharpness of the positive term, positive.
        beta: sharpness of the negative term, positive.
        base: similarity at which the terms bend.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.
    """

    default_distance = CosineSimilarity()
    presets: ClassVar = {"paper": {"alpha": 2.0, "beta": 50.0, "base": 0.5}}

    def __init__(self, alpha: float = 2, beta: float = 50, base: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.alpha, self.beta, self.base = alpha, beta, base
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> BinomialDeviance:
        return BinomialDeviance(self.alpha, self.beta, self.base)
