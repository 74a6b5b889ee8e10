"""Contrastive loss (Hadsell, Chopra and LeCun, CVPR 2006)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from fastdml.distances import LpDistance
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.listed import listed_closeness
from fastdml.losses.metric_loss import SingleLosses
from fastdml.reducers import AvgNonZeroReducer
from fastdml.rules import Contrastive


class ContrastiveLoss(PairLoss):
    """``[d_ap - pos_margin]_+`` of every positive pair and ``[neg_margin - d_an]_+`` of every negative pair.

    By default d is the Euclidean distance of unit vectors, and the losses above 0 of positive and of negative
    pairs are averaged each by themselves, as in pytorch-metric-learning 2.9. For a similarity the signs turn
    round, and margins such as ``pos_margin=1, neg_margin=0`` belong with it. The preset "paper" is
    ``d_ap^2 / 2`` and ``[neg_margin - d_an]_+^2 / 2`` of embeddings as they are, averaged over all pairs.

    Args:
        pos_margin: distance up to which a positive costs nothing.
        neg_margin: distance from which on a negative costs nothing.
        squared: half the squares of both, as in the paper.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.
    """

    default_reducer = AvgNonZeroReducer
    loss_names = ("pos_loss", "neg_loss")
    kind = "pair"
    presets: ClassVar = {
        "pml": {},
        "paper": {"squared": True, "distance": LpDistance(normalize_embeddings=False), "reducer": "mean"},
    }

    def __init__(
        self, pos_margin: float = 0, neg_margin: float = 1, *, squared: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.pos_margin, self.neg_margin, self.squared = pos_margin, neg_margin, squared
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> Contrastive:
        return Contrastive(self.pos_margin, self.neg_margin, self.squared, low, high)

    def single_losses(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        listed, terms = self.listed(batch, pairs).pairs(), self.rule().terms(self.closeness)
        zero = torch.zeros((), device=batch.embeddings.device)
        pull = terms.positive_terms(listed_closeness(self.closeness, batch, *listed[:2]), zero)[0]
        push = terms.negative_terms(listed_closeness(self.closeness, batch, *listed[2:]), zero)[0]
        return {
            "pos_loss": SingleLosses(pull, listed[:2], "pos_pair"),
            "neg_loss": SingleLosses(push, listed[2:], "neg_pair"),
        }
