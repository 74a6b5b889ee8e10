"""Pairs beyond fixed margins."""

from __future__ import annotations

import math
from typing import Any

from fastdml.errors import InputError
from fastdml.miners.base import Compared, MinedPairs, Miner
from fastdml.rules import Selection


class PairMarginMiner(Miner):
    """Keeps positives farther apart than one margin and negatives closer than another.

    For a similarity: positives below ``pos_margin``, negatives above ``neg_margin``.

    Args:
        pos_margin: distance above which a positive is kept.
        neg_margin: distance below which a negative is kept.
        distance: as :class:`~fastdml.miners.base.Miner`; by default the Euclidean distance of unit vectors.
    """

    def __init__(self, pos_margin: float = 0.2, neg_margin: float = 0.8, *, distance: Any = None) -> None:
        super().__init__(distance=distance)
        for name, value in (("pos_margin", pos_margin), ("neg_margin", neg_margin)):
            if not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value!r}")
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    def choose(self, compared: Compared) -> MinedPairs:
        sign = self.closeness.sign
        return MinedPairs(compared, Selection(False, sign * self.neg_margin, sign * self.pos_margin))

    def extra_repr(self) -> str:
        return f"pos_margin={self.pos_margin}, neg_margin={self.neg_margin}"
