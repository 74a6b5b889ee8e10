"""Which pairs count: the thresholds of the miners that fuse into a loss."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Selection(NamedTuple):
    """Keeps negatives closer than one threshold of their anchor and positives less close than another.

    ``relative``: a negative is kept above the closeness of the anchor's least close positive less
    ``negative``, a positive below that of its closest negative plus ``positive`` (Multi-Similarity mining).
    Else the thresholds are the numbers themselves. Positives as close as ``duplicate`` count as copies of the
    anchor and are dropped. All comparisons are strict.
    """

    relative: bool = False
    negative: float = -math.inf
    positive: float = math.inf
    duplicate: float = math.inf

    @property
    def selects(self) -> bool:
        """Whether any pair can be dropped."""
        return self != Selection()

    def constants(self) -> list[float]:
        """What the operators take."""
        return [float(self.relative), self.negative, self.positive, self.duplicate]

    @classmethod
    def from_constants(cls, constants: list[float]) -> Selection:
        """The inverse of ``constants``."""
        return cls(constants[0] != 0, *constants[1:])

    def negative_threshold(self, least_positive: Tensor) -> Tensor:
        """Of every anchor, from the closeness of its least close positive (inf where there is none)."""
        if self.relative:
            return least_positive - self.negative
        return least_positive.new_full(least_positive.shape, self.negative)

    def positive_threshold(self, most_negative: Tensor) -> Tensor:
        """Of every anchor, from the closeness of its closest negative (-inf where there is none)."""
        if self.relative:
            return most_negative + self.positive
        return most_negative.new_full(most_negative.shape, self.positive)


EVERYTHING = Selection()
