"""A loss as a rule: what a pair adds to the sums of its anchor, and what the sums are worth."""

from fastdml.rules.base import (
    Extremes,
    PairRule,
    PairStatistics,
    PairTerms,
    RowLosses,
    element,
    register,
    terms_named,
)
from fastdml.rules.binomial_deviance import BinomialDeviance
from fastdml.rules.check import Report, check
from fastdml.rules.circle import Circle
from fastdml.rules.closeness import COSINE, Closeness
from fastdml.rules.contrastive import Contrastive
from fastdml.rules.generalized_lifted_structure import GeneralizedLiftedStructure
from fastdml.rules.lifted_structure import LiftedStructure
from fastdml.rules.margin import Margin
from fastdml.rules.multi_similarity import MultiSimilarity
from fastdml.rules.ntxent import NTXent
from fastdml.rules.selection import EVERYTHING, Selection
from fastdml.rules.supcon import SupCon

__all__ = [
    "COSINE",
    "EVERYTHING",
    "BinomialDeviance",
    "Circle",
    "Closeness",
    "Contrastive",
    "Extremes",
    "GeneralizedLiftedStructure",
    "LiftedStructure",
    "Margin",
    "MultiSimilarity",
    "NTXent",
    "PairRule",
    "PairStatistics",
    "PairTerms",
    "Report",
    "RowLosses",
    "Selection",
    "SupCon",
    "check",
    "element",
    "register",
    "terms_named",
]
