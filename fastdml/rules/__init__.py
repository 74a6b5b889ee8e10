"""A loss as a rule: row statistics, pair weights and value, with no engine and no device in sight."""

from fastdml.rules.base import PairRule
from fastdml.rules.multi_similarity import MultiSimilarity

__all__ = ["MultiSimilarity", "PairRule"]
