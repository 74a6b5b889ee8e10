"""Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv 2004.11362)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from fastdml.distances import CosineSimilarity
from fastdml.losses.base import PairLoss
from fastdml.reducers import AvgNonZeroReducer
from fastdml.rules import SupCon


class SupConLoss(PairLoss):
    """Mean over the positives of ``-log softmax(S / temperature)`` over all other candidates.

    S is the cosine similarity; the losses above 0 are averaged. An anchor without a positive has loss 0, and
    so has a batch without a negative pair. Khosla et al., arXiv 2004.11362, eq. 2; values are those of
    pytorch-metric-learning 2.9.

    Args:
        temperature: what similarities are divided by, positive.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.
    """

    default_distance = CosineSimilarity()
    default_reducer = AvgNonZeroReducer
    presets: ClassVar = {
        "pml": {},
        "paper": {"temperature": 0.1, "reducer": "mean"},
        "official": {"temperature": 0.07},
    }

    def __init__(self, temperature: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = temperature
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> SupCon:
        return SupCon(self.temperature)
