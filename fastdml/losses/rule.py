"""Any rule as a loss: what to train with a loss of one's own."""

from __future__ import annotations

import math
from typing import Any

import torch

from fastdml.errors import InputError
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.metric_loss import SingleLosses
from fastdml.rules import PairRule, RowLosses


class RuleLoss(PairLoss):
    """The losses of a :class:`fastdml.rules.PairRule`, called, mined and reduced like the others.

    Losses of anchors take every reducer. Those of pairs or triplets are known by their sums alone, so they
    take no reducer that asks for single ones, and none that counts only losses between bounds.

    Args:
        rule: the rule. Its terms are given 0 for the number of each anchor.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`. The distance is Euclidean, of unit vectors, by default;
            the reducer the mean.

    Raises:
        InputError: ``rule`` is no rule, or an option that cannot be honoured.
        ValueError: the rule does not take the distance.
    """

    def __init__(self, rule: PairRule, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(rule, PairRule):
            raise InputError(f"rule must be a fastdml.rules.PairRule, got {type(rule).__name__}")
        self._rule = rule
        rule.terms(self.closeness)  # raises where the rule does not take the distance

    def rule(self, low: float = -math.inf, high: float = math.inf) -> PairRule:
        return self._rule

    def row_losses(self, batch: Batch, pairs: Any, low: float, high: float) -> dict[str, RowLosses]:
        found = super().row_losses(batch, pairs, low, high)
        for name, losses in found.items():
            reducer = self.reducer.of(name)
            if losses.count is not None and (reducer.low, reducer.high) != (-math.inf, math.inf):
                raise InputError(
                    f"reducer must be one without bounds for losses of a {losses.kind}, which "
                    f"{type(self._rule).__name__} sums by anchor, got {type(reducer).__name__}"
                )
        return found

    def _singles(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        singles = {}
        for name, losses in self.row_losses(batch, pairs, -math.inf, math.inf).items():
            if losses.count is not None:
                raise InputError(
                    f"reducer must be one of fastdml.reducers that takes sums by anchor: "
                    f"{type(self._rule).__name__} lists no losses of a {losses.kind}"
                )
            anchors = torch.arange(len(losses.total), device=losses.total.device)
            singles[name] = SingleLosses(losses.total, (anchors,), "element", losses.divisor)
        return singles

    def extra_repr(self) -> str:
        return f"{self._rule}"
