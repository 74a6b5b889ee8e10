"""CosFace loss (CVPR 2018, arXiv 1801.09414)."""

from __future__ import annotations

from typing import Any

from fastdml.losses.proxy import ProxyLoss
from fastdml.rules import CosFace


class CosFaceLoss(ProxyLoss):
    """Softmax of scaled cosines, the target's lowered by a margin.

    Wang et al., CVPR 2018, arXiv 1801.09414. Defaults, values and parameters are those of
    pytorch-metric-learning 2.9.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        margin: what the target's cosine is lowered by.
        scale: of the cosines, positive.
        options: ``label_smoothing`` of :class:`~fastdml.losses.proxy.ProxyLoss`, and those of
            :class:`~fastdml.losses.centered.CenteredLoss`.
    """

    accepts_unnormalised = False

    def __init__(
        self, num_classes: int, embedding_size: int, margin: float = 0.35, scale: float = 64, **options: Any
    ) -> None:
        super().__init__(num_classes, embedding_size, **options)
        self.margin, self.scale = margin, scale
        self.rule()  # raises on values that no rule accepts

    def rule(self) -> CosFace:
        return CosFace(self.margin, self.scale)
