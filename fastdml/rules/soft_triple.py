"""SoftTriple: softmax over classes of a softmax over their centres (ICCV 2019, arXiv 1909.05235)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fastdml.errors import InputError
from fastdml.rules.proxy import ProxyRule, positive


@dataclass(frozen=True)
class SoftTriple(ProxyRule):
    """``-log e^{la (S_y - margin)} / (e^{la (S_y - margin)} + sum_{c != y} e^{la S_c})``.

    Args:
        la: scale of the similarities; positive.
        gamma: temperature of the softmax over the centres of a class; 0 takes the closest one, which is
            HardTriple.
        margin: what the target's similarity is lowered by.
    """

    la: float = 20.0
    gamma: float = 0.1
    margin: float = 0.01

    def __post_init__(self) -> None:
        positive("la", self.la)
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise InputError(f"gamma must be 0 or a positive, finite number, got {self.gamma!r}")
        if not math.isfinite(self.margin):
            raise InputError(f"margin must be a finite number, got {self.margin!r}")

    @property
    def scale(self) -> float:  # type: ignore[override]
        return self.la

    @property
    def linear(self) -> bool:
        return self.margin == 0

    def target(self, similarity: Tensor, lengths: Tensor | None) -> Tensor:
        del lengths
        return similarity - self.margin
