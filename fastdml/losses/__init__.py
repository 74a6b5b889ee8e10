"""The losses as modules, with the names and call of pytorch-metric-learning 2.9."""

from fastdml.losses.multi_similarity import MultiSimilarityLoss

__all__ = ["MultiSimilarityLoss"]
