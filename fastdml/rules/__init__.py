"""A loss as a rule: what a pair adds to the sums of its anchor, and what the sums are worth."""

from fastdml.rules.arcface import ArcFace
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
from fastdml.rules.cosface import CosFace
from fastdml.rules.generalized_lifted_structure import GeneralizedLiftedStructure
from fastdml.rules.lifted_structure import LiftedStructure
from fastdml.rules.margin import Margin
from fastdml.rules.multi_similarity import MultiSimilarity
from fastdml.rules.normalized_softmax import NormalizedSoftmax
from fastdml.rules.ntxent import NTXent
from fastdml.rules.proxy import Centres, ProxyRule, ProxyStatistics
from fastdml.rules.proxy_anchor import ProxyAnchor
from fastdml.rules.proxy_nca import ProxyNCA
from fastdml.rules.selection import EVERYTHING, Selection
from fastdml.rules.soft_triple import SoftTriple
from fastdml.rules.sphereface import SphereFace
from fastdml.rules.supcon import SupCon

__all__ = [
    "COSINE",
    "EVERYTHING",
    "ArcFace",
    "BinomialDeviance",
    "Centres",
    "Circle",
    "Closeness",
    "Contrastive",
    "CosFace",
    "Extremes",
    "GeneralizedLiftedStructure",
    "LiftedStructure",
    "Margin",
    "MultiSimilarity",
    "NTXent",
    "NormalizedSoftmax",
    "PairRule",
    "PairStatistics",
    "PairTerms",
    "ProxyAnchor",
    "ProxyNCA",
    "ProxyRule",
    "ProxyStatistics",
    "Report",
    "RowLosses",
    "Selection",
    "SoftTriple",
    "SphereFace",
    "SupCon",
    "check",
    "element",
    "register",
    "terms_named",
]
