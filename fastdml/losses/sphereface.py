"""SphereFace loss (CVPR 2017, arXiv 1704.08063)."""

from __future__ import annotations

from typing import Any

from fastdml.losses.proxy import ProxyLoss
from fastdml.rules import SphereFace


class SphereFaceLoss(ProxyLoss):
    """Softmax of cosines times the lengths of the embeddings, the target's angle multiplied.

    Liu et al., CVPR 2017, arXiv 1704.08063. Class weights are scaled to length one, embeddings keep their
    lengths. Defaults, values and parameters are those of pytorch-metric-learning 2.9.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        margin: what the target's angle is multiplied with, a positive integer.
        scale: of the cosines, positive.
        options: ``label_smoothing`` of :class:`~fastdml.losses.proxy.ProxyLoss`, and those of
            :class:`~fastdml.losses.centered.CenteredLoss`.
    """

    accepts_unnormalised = False

    def __init__(
        self, num_classes: int, embedding_size: int, margin: int = 4, scale: float = 1, **options: Any
    ) -> None:
        super().__init__(num_classes, embedding_size, **options)
        self.margin, self.scale = margin, scale
        self.rule()  # raises on values that no rule accepts

    def rule(self) -> SphereFace:
        return SphereFace(self.margin, self.scale)
