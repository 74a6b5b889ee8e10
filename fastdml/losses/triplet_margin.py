"""Triplet margin loss over all triplets (Schroff, Kalenichenko and Philbin, CVPR 2015, arXiv 1503.03832)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from fastdml.distances import LpDistance
from fastdml.engines.triplets import triplet_losses
from fastdml.errors import InputError
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.listed import ListedTriplets, listed_closeness
from fastdml.losses.metric_loss import SingleLosses
from fastdml.losses.sampled import sample_triplets
from fastdml.miners import MinedTriplets
from fastdml.reducers import AvgNonZeroReducer
from fastdml.rules import EVERYTHING, PairRule, RowLosses


class TripletMarginLoss(PairLoss):
    """``[d_ap - d_an + margin]_+``, averaged over the triplets where it is above 0.

    No triplet is ever listed. d is the Euclidean distance of unit vectors by default. Of every positive of an
    anchor it is enough to know how many negatives violate its margin, and the sum of their distances: N^2
    comparisons, and memory linear in the number of positive pairs. Values are those of
    pytorch-metric-learning 2.9.

    Args:
        margin: by how much a negative must be farther than a positive.
        swap: take the distance from the positive to the negative where it is less than the anchor's. Exact,
            but compares all negatives for every positive pair. Not with separate candidates.
        smooth_loss: ``log(1 + e^violation)`` in place of ``[violation]_+``. Exact, at the same cost as
        ``swap``.
        triplets_per_anchor: "all", or how many random ones.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.

    The preset "paper" is FaceNet's: squared distances, margin 0.2; its miner is
    ``TripletMarginMiner(0.2, "semihard", distance=LpDistance(power=2))``.
    """

    default_reducer = AvgNonZeroReducer
    kind = "triplet"
    presets: ClassVar = {"pml": {}, "paper": {"margin": 0.2, "distance": LpDistance(power=2)}}

    def __init__(
        self,
        margin: float = 0.05,
        swap: bool = False,
        smooth_loss: bool = False,
        triplets_per_anchor: int | str = "all",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not math.isfinite(margin):
            raise InputError(f"margin must be a finite number, got {margin!r}")
        if triplets_per_anchor != "all" and not isinstance(triplets_per_anchor, int):
            raise InputError(f"triplets_per_anchor must be 'all' or an integer, got {triplets_per_anchor!r}")
        self.margin, self.swap, self.smooth_loss = margin, swap, smooth_loss
        self.triplets_per_anchor = triplets_per_anchor

    def rule(self, low: float = -math.inf, high: float = math.inf) -> PairRule:
        raise NotImplementedError("triplets have no rule of pairs: see fastdml.engines.triplets")

    def row_losses(self, batch: Batch, pairs: Any, low: float, high: float) -> dict[str, RowLosses]:
        mined, selection = None, EVERYTHING
        if pairs is None:
            fused = self.triplets_per_anchor == "all"
        elif isinstance(pairs, MinedTriplets):
            fused = pairs.fits(batch.embeddings, batch.ref_embeddings, self.closeness)
            mined = pairs.window
        else:
            found = self.selection_of(pairs, batch)
            fused, selection = found is not None, found or EVERYTHING
        if fused:
            losses = triplet_losses(
                *batch[:4], closeness=self.closeness, own=batch.own, margin=self.margin, low=low, high=high,
                mined=mined, selection=selection, smooth=self.smooth_loss, swap=self.swap,
            )  # fmt: skip
            return {"loss": losses}
        single = self.single_losses(batch, pairs)["loss"]
        return {"loss": single.by_anchor(len(batch.embeddings), low, high)}

    def single_losses(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        triplets = self._triplets(batch, pairs)
        anchors, positives, negatives = triplets
        positive = listed_closeness(self.closeness, batch, anchors, positives)
        negative = listed_closeness(self.closeness, batch, anchors, negatives)
        if self.swap:
            if batch.ref_embeddings is not None:
                raise InputError(
                    "swap must be False with ref_emb, whose rows are not compared with each other"
                )
            between = listed_closeness(self.closeness, batch, positives, negatives)
            negative = torch.maximum(negative, between)
        violation = negative - positive + self.margin
        losses = F.softplus(violation) if self.smooth_loss else F.relu(violation)
        return {"loss": SingleLosses(losses, tuple(triplets), "triplet")}

    def _triplets(self, batch: Batch, pairs: Any) -> ListedTriplets:
        if pairs is not None or self.triplets_per_anchor == "all":
            return self.listed(batch, pairs).triplets()
        return ListedTriplets(
            *sample_triplets(batch.labels, batch.ref_labels, batch.own, int(self.triplets_per_anchor))
        )
