"""Multi-Similarity: pair mining and pair weighting (CVPR 2019, arXiv 1904.06627)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastdml.rules.base import PairRule

LOG2E = math.log2(math.e)

# Largest exponent that a kernel lets exp() see. exp(60) leaves room for the sum of 2**40 such terms in fp32.
LARGEST_EXPONENT = 60.0
# Beyond this, shifting every exponent by one constant could flush terms that matter to zero.
LARGEST_RANGE = 140.0


@dataclass(frozen=True)
class MultiSimilarity(PairRule):
    """``1/a log(1 + sum_P e^{-a(S - l)}) + 1/b log(1 + sum_N e^{b(S - l)})`` for every anchor.

    Args:
        alpha: ``a``, the sharpness of the positive term; positive.
        beta: ``b``, the sharpness of the negative term; positive.
        base: ``l``, the similarity at which a pair starts to count.
        epsilon: mining margin. A negative is kept if ``S + epsilon`` exceeds the anchor's least similar
            positive, a positive if ``S - epsilon`` is below its most similar negative. None keeps every pair.
        duplicate: positives at least this similar are dropped as copies of the anchor. None: none are.
    """

    alpha: float = 2.0
    beta: float = 50.0
    base: float = 0.5
    epsilon: float | None = None
    duplicate: float | None = None

    name: ClassVar[str] = "multi_similarity"

    def __post_init__(self) -> None:
        for field in ("alpha", "beta"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field} must be a positive number, got {value!r}")
        if not math.isfinite(self.base):
            raise ValueError(f"base must be a finite number, got {self.base!r}")
        if self.epsilon is not None and not math.isfinite(self.epsilon):
            raise ValueError(f"epsilon must be a finite number or None, got {self.epsilon!r}")

    def select(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs that mining keeps: bool masks [N, M] of positives and of negatives."""
        if self.duplicate is not None:
            positive = positive & (similarity < self.duplicate)
        if self.epsilon is None:
            return positive, negative
        if similarity.shape[1] == 0:
            return positive, negative
        fixed = similarity.detach()
        least = fixed.masked_fill(~positive, math.inf).amin(dim=1, keepdim=True)
        most = fixed.masked_fill(~negative, -math.inf).amax(dim=1, keepdim=True)
        return positive & (fixed - self.epsilon < most), negative & (fixed + self.epsilon > least)

    def dense(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        positive, negative = self.select(similarity, positive, negative)
        pull = _log_one_plus_sum(self.alpha * (self.base - similarity), positive) / self.alpha
        push = _log_one_plus_sum(self.beta * (similarity - self.base), negative) / self.beta
        return pull + push

    def constants(self) -> list[float]:
        """Exponents in base two: ``e^{b(S-l) - shift} = 2^{S * scale - offset}``, likewise for positives.

        Order: negative scale, negative offset, negative shift, 1/beta, positive scale, positive offset,
        positive shift, 1/alpha, mining (1 or 0), epsilon, duplicate.
        """
        negative_shift = max(0.0, self.beta * (1 - self.base) - LARGEST_EXPONENT)
        positive_shift = max(0.0, self.alpha * (1 + self.base) - LARGEST_EXPONENT)
        return [
            self.beta * LOG2E,
            (self.beta * self.base + negative_shift) * LOG2E,
            negative_shift,
            1 / self.beta,
            -self.alpha * LOG2E,
            (positive_shift - self.alpha * self.base) * LOG2E,
            positive_shift,
            1 / self.alpha,
            float(self.epsilon is not None),
            self.epsilon or 0.0,
            math.inf if self.duplicate is None else self.duplicate,
        ]

    def unsupported(self, backend: str, dtype: torch.dtype) -> str | None:
        if backend == "reference" or dtype == torch.float64:
            return None
        exponent = max(self.beta * (1 - self.base), self.alpha * (1 + self.base))
        if exponent <= LARGEST_RANGE:
            return None
        return (
            f"exponents up to {exponent:.0f} (beta * (1 - base) or alpha * (1 + base)) leave the range of "
            f"float32; at most {LARGEST_RANGE:.0f} is accepted"
        )


def _log_one_plus_sum(exponents: Tensor, keep: Tensor) -> Tensor:
    """``log(1 + sum of e^exponent over the kept columns)`` of every row."""
    exponents = exponents.masked_fill(~keep, -math.inf)
    one = exponents.new_zeros(exponents.shape[0], 1)
    return torch.logsumexp(torch.cat([exponents, one], dim=1), dim=1)
