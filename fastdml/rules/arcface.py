"""ArcFace: an angular margin on the target (CVPR 2019, arXiv 1801.07698)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.rules.proxy import ProxyRule, positive


@dataclass(frozen=True)
class ArcFace(ProxyRule):
    """Softmax of ``scale cos theta_c``, the target's angle widened to ``theta + margin``.

    Past ``theta > pi - margin``, where the cosine would rise again, ``cos theta - margin sin margin``.

    Args:
        margin: in radians, between 0 and pi.
        scale: of the cosines; positive.
    """

    margin: float = math.radians(28.6)
    scale: float = 64.0

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        if not 0 <= self.margin <= math.pi:
            raise InputError(f"margin must be between 0 and 180 degrees, got {math.degrees(self.margin)!r}")

    @property
    def linear(self) -> bool:
        return self.margin == 0

    def target(self, similarity: Tensor, lengths: Tensor | None) -> Tensor:
        del lengths
        cosine = similarity.clamp(-1, 1)
        # the slope of the sine is infinite at 0 and 180 degrees, where the clamp stops its gradient
        sine = (1 - cosine * cosine).clamp_min(1e-12).sqrt()
        widened = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine < -math.cos(self.margin), beyond, widened)
