"""Generalised lifted structure loss (Hermans, Beyer and Leibe, 2017, arXiv 1703.07737)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from fastdml.distances import LpDistance
from fastdml.losses.base import PairLoss
from fastdml.rules import GeneralizedLiftedStructure


class GeneralizedLiftedStructureLoss(PairLoss):
    """``[log sum_P e^{d - pos_margin} + log sum_N e^{neg_margin - d}]_+``, averaged over all anchors.

    d is the Euclidean distance of unit vectors by default; a side without a pair counts 0. Page 4 of "In
    defense of the triplet loss" (arXiv 1703.07737); values are those of pytorch-metric-learning 2.9.

    Args:
        neg_margin: distance up to which negatives are pushed.
        pos_margin: distance from which on positives are pulled.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.

    The preset "paper" compares embeddings that are not normalised.
    """

    presets: ClassVar = {"pml": {}, "paper": {"distance": LpDistance(normalize_embeddings=False)}}

    def __init__(self, neg_margin: float = 1, pos_margin: float = 0, **options: Any) -> None:
        super().__init__(**options)
        self.neg_margin, self.pos_margin = neg_margin, pos_margin
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> GeneralizedLiftedStructure:
        return GeneralizedLiftedStructure(self.neg_margin, self.pos_margin)
