"""Margin loss (Wu et al., ICCV 2017, arXiv 1706.07567)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdml.errors import InputError
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.listed import ListedTriplets, listed_closeness
from fastdml.losses.metric_loss import SingleLosses
from fastdml.losses.sampled import sample_triplets
from fastdml.reducers import DivisorReducer
from fastdml.rules import Margin, RowLosses


class MarginLoss(PairLoss):
    """``[d_ap - beta + margin]_+ + [beta - d_an + margin]_+`` over triplets.

    Divided by the number of terms above 0. d is the Euclidean distance of unit vectors by default; beta, the
    boundary between positives and negatives, may be learnt, for all classes or for each. All triplets are
    counted without listing one, as a positive of an anchor stands in as many triplets as the anchor has
    negatives. Wu et al., arXiv 1706.07567; values are those of pytorch-metric-learning 2.9.

    Args:
        margin: half the width of the band around beta.
        nu: weight of the regularisation ``nu * beta`` of a learnt beta.
        beta: initial boundary, a distance (or similarity).
        triplets_per_anchor: "all", or how many random ones.
        learn_beta: whether beta is a parameter.
        num_classes: makes one beta for each class, indexed by label.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.

    The preset "paper" learns beta.
    """

    default_reducer = DivisorReducer
    loss_names = ("margin_loss", "beta_reg_loss")
    kind = "triplet"
    presets: ClassVar = {"pml": {}, "paper": {"margin": 0.2, "beta": 1.2, "learn_beta": True}}

    beta: Tensor

    def __init__(
        self,
        margin: float = 0.2,
        nu: float = 0,
        beta: float = 1.2,
        triplets_per_anchor: int | str = "all",
        learn_beta: bool = False,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if triplets_per_anchor != "all" and not isinstance(triplets_per_anchor, int):
            raise InputError(f"triplets_per_anchor must be 'all' or an integer, got {triplets_per_anchor!r}")
        self.margin, self.nu, self.learn_beta = margin, nu, learn_beta
        self.triplets_per_anchor = triplets_per_anchor
        values = torch.full((num_classes or 1,), float(beta))
        if learn_beta:
            self.beta = nn.Parameter(values)
        else:
            self.register_buffer("beta", values, persistent=False)
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> Margin:
        return Margin(self.margin, 0.0 if low == 0 else -math.inf)

    def fuses(self, low: float, high: float) -> bool:
        return low <= 0 and high == math.inf

    def row(self, batch: Batch) -> Tensor:
        beta = self.beta.expand(len(batch.labels)) if len(self.beta) == 1 else self.beta[batch.labels]
        return beta * self.closeness.sign

    def row_losses(self, batch: Batch, pairs: Any, low: float, high: float) -> dict[str, RowLosses]:
        triplets = self._listed_triplets(batch, pairs)
        if triplets is None:
            found = super().row_losses(batch, pairs, low, high)
            return self._with_regularisation(batch, found, self._numbers(batch, pairs, found, low))
        single = self._of_triplets(batch, triplets)
        count = len(batch.embeddings)
        found = {"margin_loss": single.by_anchor(count, low, high)}
        numbers = triplets.anchors.bincount(minlength=count)
        return self._with_regularisation(batch, found, numbers.to(single.losses.dtype))

    def _numbers(self, batch: Batch, pairs: Any, found: dict[str, RowLosses], low: float) -> Tensor:
        """In how many triplets every anchor stands."""
        if low < 0:
            count = found["margin_loss"].count
        else:
            count = super().row_losses(batch, pairs, -math.inf, math.inf)["margin_loss"].count
        assert count is not None
        return count.detach()

    def _with_regularisation(
        self, batch: Batch, found: dict[str, RowLosses], numbers: Tensor
    ) -> dict[str, RowLosses]:
        if not self.learn_beta or not self.nu:
            return found
        beta = self.row(batch) * self.closeness.sign
        divisor = found["margin_loss"].divisor
        if len(self.beta) == 1:
            some = (numbers.sum() > 0).to(beta.dtype)
            regularisation = RowLosses(self.beta * self.nu * some, kind="already_reduced")
        else:
            regularisation = RowLosses(beta * self.nu * numbers, numbers, "triplet", divisor)
        return {**found, "beta_reg_loss": regularisation}

    def _listed_triplets(self, batch: Batch, pairs: Any) -> ListedTriplets | None:
        """The triplets of a list of such, or sampled ones; None where pairs or their selection say which."""
        if pairs is None:
            if self.triplets_per_anchor == "all":
                return None
            return ListedTriplets(
                *sample_triplets(batch.labels, batch.ref_labels, batch.own, int(self.triplets_per_anchor))
            )
        if self.selection_of(pairs, batch) is not None or len(pairs) == 4:
            return None
        return self.listed(batch, pairs).triplets()

    def _of_triplets(self, batch: Batch, triplets: ListedTriplets) -> SingleLosses:
        boundary = self.row(batch)[triplets.anchors]
        positive = listed_closeness(self.closeness, batch, triplets.anchors, triplets.positives)
        negative = listed_closeness(self.closeness, batch, triplets.anchors, triplets.negatives)
        boundary = boundary.to(positive.dtype)
        pull, push = F.relu(boundary - positive + self.margin), F.relu(negative - boundary + self.margin)
        divisor = (pull > 0).sum() + (push > 0).sum()
        return SingleLosses(pull + push, tuple(triplets), "triplet", divisor)

    def single_losses(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        triplets = self._listed_triplets(batch, pairs)
        if triplets is None:
            triplets = self.listed(batch, pairs).triplets()
        found = {"margin_loss": self._of_triplets(batch, triplets)}
        if not self.learn_beta or not self.nu or not len(triplets.anchors):
            return found
        if len(self.beta) == 1:
            found["beta_reg_loss"] = SingleLosses(self.beta * self.nu, (), "already_reduced")
        else:
            beta, divisor = self.beta[batch.labels[triplets.anchors]], found["margin_loss"].divisor
            found["beta_reg_loss"] = SingleLosses(beta * self.nu, (triplets.anchors,), "element", divisor)
        return found
