"""Proxy-Anchor: every proxy against the samples of the batch (CVPR 2020, arXiv 2003.13911)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastdml.errors import InputError
from fastdml.rules.base import PairRule, PairStatistics, RowLosses
from fastdml.rules.closeness import Closeness
from fastdml.rules.proxy import positive
from fastdml.rules.terms import Exponential, log_one_plus


@dataclass(frozen=True)
class ProxyAnchor(PairRule):
    """``log(1 + sum_P e^{-alpha (S - margin)})`` and ``log(1 + sum_N e^{alpha (S + margin)})`` of a proxy.

    Anchors are the proxies, candidates the samples, P those of the proxy's class.

    Args:
        alpha: sharpness, positive.
        margin: a similarity (or distance).
    """

    alpha: float = 32.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)
        if not math.isfinite(self.margin):
            raise InputError(f"margin must be a finite number, got {self.margin!r}")

    def terms(self, closeness: Closeness) -> Exponential:
        shift = self.alpha * closeness.sign * self.margin
        return Exponential.of(closeness, (self.alpha, shift), (-self.alpha, shift), adds_one=True)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        terms = self.terms(closeness)
        with_positives = (statistics.positives > 0).sum()
        pull = terms.positive_logsumexp(statistics, -math.inf)
        push = terms.negative_logsumexp(statistics, -math.inf)
        count = torch.full_like(with_positives, len(statistics.positives))
        return {
            "pos_loss": RowLosses(log_one_plus(pull), divisor=with_positives),
            "neg_loss": RowLosses(log_one_plus(push), divisor=count),
        }
