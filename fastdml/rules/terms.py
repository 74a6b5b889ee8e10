"""The terms of the losses that ship: five families, each with a twin in Triton and in C++ of the same name.

Exponents are in base two, ``e^{s c - o} = 2^{c * scale - offset}`` with ``scale = s log2(e)``, and shifted so
that a sum of 2**40 of them stays within float32. Where the closeness has no bounds, each anchor has a shift
of its own, which only the backends in plain PyTorch take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.rules.base import Extremes, PairStatistics, PairTerms, register
from fastdml.rules.closeness import Closeness

LOG2E = math.log2(math.e)
LN2 = math.log(2)

NATIVE = ("triton", "cuda", "cpu")

# Largest exponent that a kernel lets exp() see. exp(60) leaves room for the sum of 2**40 such terms in fp32.
LARGEST_EXPONENT = 60.0
# Beyond this, shifting every exponent by one constant could flush terms that matter to zero.
LARGEST_RANGE = 140.0


def _shift_and_range(low: float, high: float) -> tuple[float, float]:
    """What exponents between two bounds are shifted by, and how far they spread; no shift where too far."""
    spread = high - low
    if not spread <= LARGEST_RANGE:
        return 0.0, spread
    shift = max(0.0, high - LARGEST_EXPONENT)
    return (
        max(low + LARGEST_RANGE - LARGEST_EXPONENT, high - LARGEST_EXPONENT) if low < -80 else shift
    ), spread


def _too_far(spread: float) -> str | None:
    if spread <= LARGEST_RANGE:
        return None
    return (
        f"exponents spread over {spread:.0f}, which leaves the range of float32; "
        f"{LARGEST_RANGE:.0f} is accepted"
    )


@register
@dataclass(frozen=True)
class Exponential(PairTerms):
    """``e^{slope c + bias - shift}`` on either side; the second sum of the positives is that of ``c`` itself.

    Used by Multi-Similarity, both lifted structures and SupCon. Made by :meth:`of`.
    """

    negative_scale: float
    negative_offset: float
    negative_shift: float
    positive_scale: float
    positive_offset: float
    positive_shift: float
    spread: float
    """How far the exponents spread, infinite without bounds; where too far, anchors have shifts of their
    own.
    """

    name: ClassVar[str] = "exponential"
    native: ClassVar[tuple[str, ...]] = NATIVE

    @classmethod
    def of(
        cls,
        closeness: Closeness,
        negative: tuple[float, float],
        positive: tuple[float, float] = (0.0, 0.0),
        adds_one: bool = False,
    ) -> Exponential:
        """From slope and bias of the exponents of negatives and of positives.

        Args:
            adds_one: the loss adds 1 to both sums, so that small exponents may vanish.
        """

        def side(slope: float, bias: float) -> tuple[float, float, float, float]:
            ends = [slope * c + bias if slope else bias for c in closeness.bounds]
            low, high = (0.0, max(0.0, *ends)) if adds_one else (min(ends), max(ends))
            shift, spread = _shift_and_range(low, high)
            return slope * LOG2E, (shift - bias) * LOG2E, shift, spread

        *pushed, negative_spread = side(*negative)
        *pulled, positive_spread = side(*positive)
        return cls.from_constants([*pushed, *pulled, max(negative_spread, positive_spread)])

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp2(c * self.negative_scale - self.negative_offset - row), torch.zeros_like(c)

    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return self.negative_terms(c, row)[0] * (self.negative_scale * LN2)

    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp2(c * self.positive_scale - self.positive_offset - row), c

    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return self.positive_terms(c, row)[0] * (self.positive_scale * LN2), torch.ones_like(c)

    def negative_row(self, row: Tensor, extremes: Extremes) -> Tensor:
        assert extremes.most_negative is not None
        return self._own_shift(row, self.negative_scale, self.negative_offset, extremes.most_negative)

    def positive_row(
        self, row: Tensor, extremes: Extremes, negative_sum: Tensor, negative_row: Tensor
    ) -> Tensor:
        outermost = extremes.least_positive if self.positive_scale < 0 else extremes.most_positive
        return self._own_shift(row, self.positive_scale, self.positive_offset, outermost)

    def _own_shift(self, row: Tensor, scale: float, offset: float, c: Tensor | None) -> Tensor:
        if self.spread <= LARGEST_RANGE or c is None:
            return row
        return torch.where(c.isfinite(), c * scale - offset, 0).to(row.dtype)

    @property
    def is_unshifted(self) -> bool:
        """Whether the sums are those of the exponentials themselves."""
        return self.spread <= LARGEST_RANGE and self.negative_shift == self.positive_shift == 0

    def negative_logsumexp(self, statistics: PairStatistics, of_none: float = 0.0) -> Tensor:
        """``log sum e^exponent`` over the kept negatives of every anchor, ``of_none`` where it has none."""
        return _logsumexp(statistics.negative_sum, statistics.negative_row, self.negative_shift, of_none)

    def positive_logsumexp(self, statistics: PairStatistics, of_none: float = 0.0) -> Tensor:
        """``log sum e^exponent`` over the kept positives of every anchor, ``of_none`` where it has none."""
        return _logsumexp(statistics.positive_sum, statistics.positive_row, self.positive_shift, of_none)

    def unsupported(self, backend: str, dtype: torch.dtype) -> str | None:
        return _too_far(self.spread)


def log_one_plus(logsumexp: Tensor) -> Tensor:
    """``log(1 + sum e^exponent)`` from ``log sum e^exponent``, which may be -inf."""
    return F.softplus(logsumexp, threshold=40)


def _logsumexp(total: Tensor, row: Tensor, shift: float, of_none: float) -> Tensor:
    # a sum of no terms is kept out of the logarithm and its gradient
    empty = total == 0
    logarithm = torch.where(empty, torch.ones_like(total), total).log() + (row * LN2 + shift)
    return torch.where(empty, torch.full_like(total, of_none), logarithm)


@register
@dataclass(frozen=True)
class Hinge(PairTerms):
    """``v = [c + bias - row]_+`` for negatives, ``[bias - c + row]_+`` for positives, and how many.

    With ``squared``, 1 or 0, the term is ``v^2 / 2``. Only terms whose v lies strictly between ``low`` and
    ``high`` are summed and counted, as a reducer with thresholds does. Used by the contrastive and the margin
    loss, whose ``row`` is the margin of the anchor's class.
    """

    negative_bias: float
    positive_bias: float
    low: float = -math.inf
    high: float = math.inf
    squared: float = 0.0

    name: ClassVar[str] = "hinge"
    native: ClassVar[tuple[str, ...]] = NATIVE

    def _between(self, v: Tensor) -> Tensor:
        return (v > self.low) & (v < self.high)

    def _terms(self, v: Tensor) -> tuple[Tensor, Tensor]:
        v = v.clamp_min(0)
        counts = self._between(v).to(v.dtype)
        return (v * v / 2 if self.squared else v) * counts, counts

    def _weight(self, v: Tensor) -> Tensor:
        counts = (v > 0) & self._between(v)
        return counts * v if self.squared else counts.to(v.dtype)

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return self._terms(c + self.negative_bias - row)

    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return self._weight(c + self.negative_bias - row)

    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return self._terms(self.positive_bias - c + row)

    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return -self._weight(self.positive_bias - c + row), torch.zeros_like(c)


@register
@dataclass(frozen=True)
class Softplus(PairTerms):
    """``log(1 + e^{slope c + bias})`` on either side, of which the slopes are positive and negative.

    Used by binomial deviance.
    """

    negative_slope: float
    negative_bias: float
    positive_slope: float
    positive_bias: float

    name: ClassVar[str] = "softplus"
    native: ClassVar[tuple[str, ...]] = NATIVE

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return F.softplus(c * self.negative_slope + self.negative_bias, threshold=_ALWAYS), torch.zeros_like(
            c
        )

    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return self.negative_slope * torch.sigmoid(c * self.negative_slope + self.negative_bias)

    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return F.softplus(c * self.positive_slope + self.positive_bias, threshold=_ALWAYS), torch.zeros_like(
            c
        )

    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.positive_slope * torch.sigmoid(c * self.positive_slope + self.positive_bias)
        return weight, torch.zeros_like(c)


# torch returns x itself for softplus of anything above its threshold; 20, its default, is not exact in
# float64
_ALWAYS = 40.0


@register
@dataclass(frozen=True)
class CircleTerms(PairTerms):
    """The exponentials of the circle loss, whose factors in brackets are constants to the gradient.

    ``e^{gamma [c + m]_+ (c - m) - shift}`` for negatives, ``e^{-gamma [1 + m - c]_+ (c - 1 + m) - row}`` for
    positives. The row is the positives' largest exponent. On cosine similarity only. Made by :meth:`of`.
    """

    gamma: float
    m: float
    negative_shift: float
    spread: float
    """How far the exponents of negatives spread; where too far, anchors have shifts of their own."""

    name: ClassVar[str] = "circle"
    native: ClassVar[tuple[str, ...]] = NATIVE
    reads_least: ClassVar[bool] = True

    @classmethod
    def of(cls, gamma: float, m: float) -> CircleTerms:
        shift, spread = _shift_and_range(min(0.0, -gamma * m * m), gamma * (1 - m * m))
        return cls(gamma, m, shift, spread)

    def negative_exponent(self, c: Tensor) -> Tensor:
        return self.gamma * (c.detach() + self.m).clamp_min(0) * (c - self.m)

    def positive_exponent(self, c: Tensor) -> Tensor:
        return -self.gamma * (1 + self.m - c.detach()).clamp_min(0) * (c - (1 - self.m))

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(self.negative_exponent(c) - self.negative_shift - row), torch.zeros_like(c)

    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return self.gamma * (c + self.m).clamp_min(0) * self.negative_terms(c, row)[0]

    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(self.positive_exponent(c) - row), torch.zeros_like(c)

    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        factor = -self.gamma * (1 + self.m - c).clamp_min(0)
        return factor * self.positive_terms(c, row)[0], torch.zeros_like(c)

    def negative_row(self, row: Tensor, extremes: Extremes) -> Tensor:
        most = extremes.most_negative
        assert most is not None
        if self.spread <= LARGEST_RANGE:
            return row
        # the exponent falls from 0 at -m before it rises, so its largest value is that of the closest, or 0
        return self.negative_exponent(most.clamp(-1, 1)).clamp_min(0).to(row.dtype)

    def positive_row(
        self, row: Tensor, extremes: Extremes, negative_sum: Tensor, negative_row: Tensor
    ) -> Tensor:
        return self.positive_exponent(extremes.least_positive.clamp(-1, 1)).to(row.dtype)

    def unsupported(self, backend: str, dtype: torch.dtype) -> str | None:
        return _too_far(self.spread)


@register
@dataclass(frozen=True)
class InfoNCE(PairTerms):
    """``e^{slope c - shift}`` for negatives, ``log(1 + e^{row - slope c})`` for positives.

    The row is the log-sum-exp of the negatives. The second sum of the positives is that of the sigmoids, the
    derivative of the first by the row. Used by NT-Xent and N-pairs. Made by :meth:`of`.
    """

    scale: float
    offset: float
    spread: float
    """How far the exponents spread, infinite without bounds; where too far, anchors have shifts of their
    own.
    """

    name: ClassVar[str] = "info_nce"
    native: ClassVar[tuple[str, ...]] = NATIVE

    @classmethod
    def of(cls, closeness: Closeness, temperature: float) -> InfoNCE:
        shift, spread = _shift_and_range(*(c / temperature for c in closeness.bounds))
        return cls(LOG2E / temperature, shift * LOG2E, spread)

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp2(c * self.scale - self.offset - row), torch.zeros_like(c)

    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return self.negative_terms(c, row)[0] * (self.scale * LN2)

    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        v = row - c * (self.scale * LN2)
        return F.softplus(v, threshold=_ALWAYS), torch.sigmoid(v.detach())

    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.scale * LN2
        return -slope * torch.sigmoid(row - c * slope), torch.zeros_like(c)

    def negative_row(self, row: Tensor, extremes: Extremes) -> Tensor:
        most = extremes.most_negative
        assert most is not None
        if self.spread <= LARGEST_RANGE:
            return row
        return torch.where(most.isfinite(), most * self.scale, 0).to(row.dtype)

    def positive_row(
        self, row: Tensor, extremes: Extremes, negative_sum: Tensor, negative_row: Tensor
    ) -> Tensor:
        return negative_sum.log() + (negative_row + self.offset) * LN2

    def unsupported(self, backend: str, dtype: torch.dtype) -> str | None:
        return _too_far(self.spread)
