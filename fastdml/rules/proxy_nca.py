"""Proxy-NCA (Movshovitz-Attias et al., ICCV 2017, arXiv 1703.07464)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastdml.rules.proxy import ProxyRule, ProxyStatistics, positive


@dataclass(frozen=True)
class ProxyNCA(ProxyRule):
    """``-log e^{scale S_y} / sum_c e^{scale S_c}``, of which the paper leaves the target out of the sum.

    Args:
        scale: of the similarities; positive.
        leaves_target_out: the paper's form, which may be negative.
    """

    scale: float = 1.0
    leaves_target_out: bool = False

    def __post_init__(self) -> None:
        positive("scale", self.scale)

    @property
    def linear(self) -> bool:
        return not self.leaves_target_out

    def value(
        self, statistics: ProxyStatistics, classes: int, smoothing: float = 0.0, lengths: Tensor | None = None
    ) -> Tensor:
        if self.leaves_target_out:
            return statistics.others - self.scale * statistics.target
        return super().value(statistics, classes, smoothing, lengths)
