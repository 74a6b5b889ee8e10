"""Circle loss (Sun et al., CVPR 2020, arXiv 2002.10857)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from fastdml.distances import CosineSimilarity
from fastdml.errors import InputError
from fastdml.losses.base import PairLoss
from fastdml.reducers import AvgNonZeroReducer
from fastdml.rules import Circle


class CircleLoss(PairLoss):
    """``softplus(LSE_N gamma [S + m]_+ (S - m) + LSE_P -gamma [1 + m - S]_+ (S - 1 + m))`` of every anchor.

    The factors in brackets are constants to the gradient; the losses above 0 are averaged. An anchor that
    lacks a positive or a negative has loss 0. Cosine similarity only. Values are those of
    pytorch-metric-learning 2.9.

    Args:
        m: relaxation, the radius of the decision boundary.
        gamma: scale, positive.
        options: ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.

    Presets of the paper: "paper" for fine-grained retrieval, "re-identification", "face".
    """

    default_distance = CosineSimilarity()
    default_reducer = AvgNonZeroReducer
    accepts = ("inner",)
    presets: ClassVar = {
        "pml": {},
        "paper": {"m": 0.4, "gamma": 80, "reducer": "mean"},
        "re-identification": {"m": 0.25, "gamma": 128, "reducer": "mean"},
        "face": {"m": 0.25, "gamma": 256, "reducer": "mean"},
    }

    def __init__(self, m: float = 0.4, gamma: float = 80, **options: Any) -> None:
        super().__init__(**options)
        if not self.closeness.normalised:
            raise InputError("distance of CircleLoss must be a cosine similarity, got a plain inner product")
        self.m, self.gamma = m, gamma
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> Circle:
        return Circle(self.m, self.gamma)
