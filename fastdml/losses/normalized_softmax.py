"""Normalised softmax loss (Zhai and Wu, BMVC 2019, arXiv 1811.12649)."""

from __future__ import annotations

from typing import Any

from fastdml.distances import DotProductSimilarity
from fastdml.losses.proxy import ProxyLoss
from fastdml.rules import NormalizedSoftmax


class NormalizedSoftmaxLoss(ProxyLoss):
    """Softmax cross-entropy of cosines over a temperature: SoftTriple with one centre a class, no margin.

    Zhai and Wu, BMVC 2019, arXiv 1811.12649. Defaults, values and parameters are those of
    pytorch-metric-learning 2.9: the class weights are always scaled to length one, the embeddings by the
    distance.

    Args:
        num_classes: C; labels lie in [0, C), or are distributions [B, C].
        embedding_size: D.
        temperature: positive.
        options: ``label_smoothing`` of :class:`~fastdml.losses.proxy.ProxyLoss`, and those of
            :class:`~fastdml.losses.centered.CenteredLoss`.
    """

    default_distance = DotProductSimilarity()
    normalises_centers = True

    def __init__(
        self, num_classes: int, embedding_size: int, temperature: float = 0.05, **options: Any
    ) -> None:
        super().__init__(num_classes, embedding_size, **options)
        self.temperature = temperature
        self.rule()  # raises on values that no rule accepts

    def rule(self) -> NormalizedSoftmax:
        return NormalizedSoftmax(self.temperature)
