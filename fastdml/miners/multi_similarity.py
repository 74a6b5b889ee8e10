"""Multi-Similarity mining (CVPR 2019, arXiv 1904.06627, section 3.2)."""

from __future__ import annotations

from typing import Any

from fastdml.distances import CosineSimilarity
from fastdml.functional import mining
from fastdml.miners.base import Compared, MinedPairs, Miner


class MultiSimilarityMiner(Miner):
    """Keeps, for every anchor, the pairs that its hardest pair of the other kind makes informative.

    A negative is kept if ``S + epsilon`` exceeds the anchor's least similar positive, a positive if
    ``S - epsilon`` is below its most similar negative; S is the cosine similarity (CVPR 2019, arXiv
    1904.06627, section 3.2).

    Args:
        epsilon: the margin.
        distance: as :class:`~fastdml.miners.base.Miner`.

    Example:
        >>> miner, loss = MultiSimilarityMiner(0.1), MultiSimilarityLoss()
        >>> loss(embeddings, labels, miner(embeddings, labels))    # fused: no pair is listed
        >>> a1, p, a2, n = miner(embeddings, labels)               # listed, as pytorch-metric-learning's
    """

    default_distance = CosineSimilarity()

    def __init__(self, epsilon: float = 0.1, *, distance: Any = None) -> None:
        super().__init__(distance=distance)
        self.selection = mining(epsilon)
        self.epsilon = epsilon

    def choose(self, compared: Compared) -> MinedPairs:
        return MinedPairs(compared, self.selection, by_value=True)

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}"
