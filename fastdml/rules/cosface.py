"""CosFace: a margin on the cosine of the target (CVPR 2018, arXiv 1801.09414)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fastdml.errors import InputError
from fastdml.rules.proxy import ProxyRule, positive


@dataclass(frozen=True)
class CosFace(ProxyRule):
    """Softmax of ``scale cos theta_c``, of the target ``scale (cos theta - margin)``.

    Args:
        margin: what the target's cosine is lowered by.
        scale: of the cosines; positive.
    """

    margin: float = 0.35
    scale: float = 64.0

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        if not math.isfinite(self.margin):
            raise InputError(f"margin must be a finite number, got {self.margin!r}")

    @property
    def linear(self) -> bool:
        return self.margin == 0

    def target(self, similarity: Tensor, lengths: Tensor | None) -> Tensor:
        del lengths
        return similarity - self.margin
