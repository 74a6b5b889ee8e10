"""NT-Xent loss, also called InfoNCE (arXiv 1807.03748, 2002.05709)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from fastdml.distances import CosineSimilarity
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.listed import listed_closeness, listed_statistics
from fastdml.losses.metric_loss import SingleLosses
from fastdml.rules import NTXent


class NTXentLoss(PairLoss):
    """``-log(e^{S_ap/T} / (e^{S_ap/T} + sum_N e^{S_an/T}))``, averaged over all positive pairs.

    S is the cosine similarity. The denominator holds that positive and the negatives of its anchor, as in
    pytorch-metric-learning 2.9, whose values these are.

    Args:
        temperature: ``T``, positive.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.

    The preset "paper" is SimCLR's temperature, 0.1.
    """

    default_distance = CosineSimilarity()
    kind = "pair"
    presets: ClassVar = {"pml": {}, "paper": {"temperature": 0.1}}

    def __init__(self, temperature: float = 0.07, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = temperature
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> NTXent:
        return NTXent(self.temperature)

    def fuses(self, low: float, high: float) -> bool:
        # every loss is above 0 but for underflow
        return low < 0 and high == math.inf

    def single_losses(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        listed, rule = self.listed(batch, pairs).pairs(), self.rule()
        statistics = listed_statistics(rule, self.closeness, batch, listed, None)
        anchors = listed.positive_anchors
        c = listed_closeness(self.closeness, batch, *listed[:2])
        # log(1 + e^{row - c/T}) with the gradient of the row, the negatives' log-sum-exp, joined on
        negatives = statistics.negative_sum
        some = negatives > 0
        safe = torch.where(some, negatives, torch.ones_like(negatives))
        row = statistics.positive_row + torch.where(some, safe.log() - safe.detach().log(), 0)
        losses = torch.nn.functional.softplus(row[anchors] - c / self.temperature, threshold=40)
        return {"loss": SingleLosses(losses, listed[:2], "pos_pair")}
