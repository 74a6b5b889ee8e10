"""Multi-Similarity loss (CVPR 2019, arXiv 1904.06627)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastdml.errors import InputError
from fastdml.losses.base import PairLoss, Reducer
from fastdml.miners import MinedPairs
from fastdml.rules import MultiSimilarity

PRESETS: dict[str, dict[str, float | None]] = {
    "pml": {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": None, "duplicate": None},
    "official": {"alpha": 2.0, "beta": 40.0, "base": 0.5, "epsilon": 0.1, "duplicate": 1 - 1e-5},
    "paper": {"alpha": 2.0, "beta": 50.0, "base": 1.0, "epsilon": 0.1, "duplicate": None},
}


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
        distance: None or pytorch-metric-learning's ``CosineSimilarity()``.
        reducer: a reducer of pytorch-metric-learning, in place of ``reduction``.

    An anchor that lacks a positive or a negative adds 0 under mining; without, the side that exists counts.

    Example:
        >>> loss = MultiSimilarityLoss(epsilon=0.1)
        >>> loss(embeddings, labels).backward()
    """

    def __init__(
        self,
        alpha: float = 2,
        beta: float = 50,
        base: float = 0.5,
        epsilon: float | None = None,
        reduction: str = "mean",
        *,
        duplicate: float | None = None,
        distance: Any = None,
        reducer: Reducer | None = None,
    ) -> None:
        super().__init__(reduction, distance, reducer)
        self.alpha, self.beta, self.base = alpha, beta, base
        self.epsilon, self.duplicate = epsilon, duplicate
        self.rule  # noqa: B018  raises on values that no rule accepts

    @classmethod
    def preset(cls, name: str, **changes: Any) -> MultiSimilarityLoss:
        """The loss as somebody published it.

        Args:
            name: "pml" (pytorch-metric-learning 2.9), "official" (the authors' code: beta 40, mining,
                positives that are copies of the anchor dropped) or "paper" (base 1, mining).
            changes: arguments of the class that differ from the preset.

        Raises:
            InputError: no such preset.
        """
        if name not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls(**{**PRESETS[name], **changes})

    @property
    def rule(self) -> MultiSimilarity:
        return MultiSimilarity(self.alpha, self.beta, self.base, self.epsilon, self.duplicate)

    def mined_rule(self, pairs: MinedPairs) -> MultiSimilarity | None:
        # Mining on top of mining would intersect the two selections: the engine takes in one.
        return replace(self.rule, epsilon=pairs.epsilon) if self.epsilon is None else None

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, base={self.base}, epsilon={self.epsilon}"
