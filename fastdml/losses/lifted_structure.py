"""Lifted structure loss (Song et al., CVPR 2016, arXiv 1511.06452)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdml.distances import LpDistance
from fastdml.engines.pair import pair_statistics
from fastdml.engines.positives import positive_pairs
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.listed import listed_closeness, listed_statistics
from fastdml.losses.metric_loss import SingleLosses
from fastdml.rules import LiftedStructure, PairStatistics, RowLosses


class LiftedStructureLoss(PairLoss):
    """Lifted structure: half the square of a hinge on every positive pair, against all negatives of both.

    ``1/2 [log(sum_{N_i} e^{neg_margin - d_ik} + sum_{N_j} e^{neg_margin - d_jl}) + d_ij - pos_margin]_+^2``
    Averaged over all positive pairs (i, j); d is the Euclidean distance of unit vectors by default. The sums
    over the negatives of i and of j are one statistic of each anchor, so that a batch takes O(N^2) work and
    linear memory. Song et al., arXiv 1511.06452; values are those of pytorch-metric-learning 2.9. With
    separate candidates only the negatives of the anchor are summed (that library compares positions of
    anchors with positions of candidates).

    Args:
        neg_margin: distance up to which negatives are pushed.
        pos_margin: what is taken from the distance of the positive pair.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.

    The preset "paper" compares embeddings that are not normalised.
    """

    kind = "pair"
    presets: ClassVar = {"pml": {}, "paper": {"distance": LpDistance(normalize_embeddings=False)}}

    def __init__(self, neg_margin: float = 1, pos_margin: float = 0, **options: Any) -> None:
        super().__init__(**options)
        self.neg_margin, self.pos_margin = neg_margin, pos_margin
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> LiftedStructure:
        return LiftedStructure(self.neg_margin, self.pos_margin)

    def row_losses(self, batch: Batch, pairs: Any, low: float, high: float) -> dict[str, RowLosses]:
        singles = self.single_losses(batch, pairs)
        return {name: one.by_anchor(len(batch.embeddings), low, high) for name, one in singles.items()}

    def single_losses(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        selection = self.selection_of(pairs, batch)
        if selection is None:
            listed = self.listed(batch, pairs).pairs()
            statistics = listed_statistics(self.rule(), self.closeness, batch, listed, None)
            anchors, positives = listed[:2]
            c = listed_closeness(self.closeness, batch, anchors, positives)
        else:
            statistics = pair_statistics(
                self.rule(), *batch[:4], closeness=self.closeness, own=batch.own, selection=selection
            )
            anchors, positives = positive_pairs(batch.labels, batch.ref_labels, batch.own)
            c = listed_closeness(self.closeness, batch, anchors, positives)
            if selection.selects:
                limit = selection.positive_threshold(statistics.most_negative)
                kept = (c < limit[anchors]) & (c < selection.duplicate)
                anchors, positives, c = anchors[kept], positives[kept], c[kept]
        losses = self._of_pairs(statistics, c, anchors, positives, batch.ref_embeddings is None)
        return {"loss": SingleLosses(losses, (anchors, positives), "pos_pair")}

    def _of_pairs(
        self, statistics: PairStatistics, c: Tensor, anchors: Tensor, positives: Tensor, self_pairs: bool
    ) -> Tensor:
        of_none = -1e30  # finite: logaddexp has no gradient at two infinities
        push = self.rule().terms(self.closeness).negative_logsumexp(statistics, of_none)
        both = torch.logaddexp(push[anchors], push[positives]) if self_pairs else push[anchors]
        # a pair of anchors without negatives counts 0 there, and a batch without any counts nothing
        both = torch.where(both > of_none / 2, both, torch.zeros_like(both))
        losses = torch.relu(both + self.closeness.sign * self.pos_margin - c).square() / 2
        return torch.where(statistics.negatives.sum() > 0, losses, torch.zeros_like(losses))
