"""SphereFace: a multiple of the target's angle (CVPR 2017, arXiv 1704.08063)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.rules.proxy import ProxyRule, positive


@dataclass(frozen=True)
class SphereFace(ProxyRule):
    """Softmax of ``scale |x| cos theta_c``, of the target ``scale |x| ((-1)^k cos(margin theta) - 2 k)``.

    ``k = floor(margin theta / pi)`` makes that fall steadily from 1 at 0 to ``1 - 2 margin`` at pi.

    Args:
        margin: the multiple, a positive integer.
        scale: of the cosines; positive.
    """

    keeps_lengths: ClassVar[bool] = True

    margin: int = 4
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        if not math.isfinite(self.margin) or self.margin != int(self.margin) or self.margin < 1:
            raise InputError(f"margin must be a positive integer, got {self.margin!r}")

    @property
    def linear(self) -> bool:
        return self.margin == 1

    def target(self, similarity: Tensor, lengths: Tensor | None) -> Tensor:
        assert lengths is not None
        cosine = (similarity / lengths.clamp_min(1e-12)).clamp(-1, 1)
        turns = (torch.acos(cosine.detach()) * (self.margin / math.pi)).floor()
        sign = 1 - 2 * turns.remainder(2)
        return (sign * _cosine_of_multiple(cosine, int(self.margin)) - 2 * turns) * lengths


def _cosine_of_multiple(cosine: Tensor, times: int) -> Tensor:
    """``cos(times theta)`` as a polynomial of the cosine, so that its gradient is finite everywhere."""
    before, now = torch.ones_like(cosine), cosine
    for _ in range(times - 1):
        before, now = now, 2 * cosine * now - before
    return now
