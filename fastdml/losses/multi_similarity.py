"""Multi-Similarity loss (CVPR 2019, arXiv 1904.06627)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from fastdml.distances import CosineSimilarity
from fastdml.errors import InputError
from fastdml.functional import mining
from fastdml.losses.base import Batch, PairLoss
from fastdml.rules import EVERYTHING, MultiSimilarity, Selection


class MultiSimilarityLoss(PairLoss):
    """Multi-Similarity loss with pair mining and weighting in one sweep, in memory linear in the batch.

    ``1/N sum_i { 1/alpha log[1 + sum_P e^{-alpha (S - base)}] + 1/beta log[1 + sum_N e^{beta (S - base)}] }``
    over the kept positives P and negatives N of every anchor, S the cosine similarity (Wang et al., CVPR
    2019, arXiv 1904.06627). Defaults and values are those of pytorch-metric-learning 2.9.

    Args:
        alpha: sharpness of the positive term, positive.
        beta: sharpness of the negative term, positive.
        base: similarity at which a pair starts to count.
        epsilon: mining margin: a negative is kept if ``S + epsilon`` exceeds the anchor's least similar
            positive, a positive if ``S - epsilon`` is below its most similar negative. None keeps every pair;
            the paper uses 0.1.
        reduction: "mean" over all anchors, "sum", or "none" for the losses [N].
        duplicate: positives at least this similar are dropped as copies of the anchor. None drops none.
        options: ``distance``, ``reducer`` (in place of ``reduction``), ``embedding_regularizer`` and
            ``embedding_reg_weight`` of :class:`~fastdml.losses.base.PairLoss`.

    An anchor that lacks a positive or a negative adds 0 under mining; without, the side that exists counts.

    Example:
        >>> loss = MultiSimilarityLoss(epsilon=0.1)
        >>> loss(embeddings, labels).backward()
    """

    default_distance = CosineSimilarity()
    presets: ClassVar = {
        "pml": {"alpha": 2.0, "beta": 50.0, "base": 0.5},
        "official": {"alpha": 2.0, "beta": 40.0, "base": 0.5, "epsilon": 0.1, "duplicate": 1 - 1e-5},
        "paper": {"alpha": 2.0, "beta": 50.0, "base": 1.0, "epsilon": 0.1},
    }

    def __init__(
        self,
        alpha: float = 2,
        beta: float = 50,
        base: float = 0.5,
        epsilon: float | None = None,
        reduction: str = "mean",
        *,
        duplicate: float | None = None,
        reducer: Any = None,
        **options: Any,
    ) -> None:
        if reduction not in ("mean", "sum", "none"):
            raise InputError(f"reduction must be one of mean, sum, none, got {reduction!r}")
        super().__init__(reducer=reduction if reducer is None else reducer, **options)
        self.alpha, self.beta, self.base = alpha, beta, base
        self.selection = mining(epsilon, duplicate)
        self.epsilon, self.duplicate = epsilon, duplicate
        self.rule()  # raises on values that no rule accepts

    def rule(self, low: float = -math.inf, high: float = math.inf) -> MultiSimilarity:
        return MultiSimilarity(self.alpha, self.beta, self.base)

    def selection_of(self, pairs: Any, batch: Batch) -> Selection | None:
        if pairs is None:
            return self.selection
        found = super().selection_of(pairs, batch)
        return found if self.selection == EVERYTHING else None
