"""Normalised softmax (Zhai and Wu, BMVC 2019, arXiv 1811.12649)."""

from __future__ import annotations

from dataclasses import dataclass

from fastdml.rules.proxy import ProxyRule, positive


@dataclass(frozen=True)
class NormalizedSoftmax(ProxyRule):
    """``-log e^{S_y / T} / sum_c e^{S_c / T}``.

    Args:
        temperature: ``T``, positive.
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)

    @property
    def scale(self) -> float:  # type: ignore[override]
        return 1 / self.temperature
