"""The losses as modules, with the names and call of pytorch-metric-learning 2.9."""

from fastdml.losses.arcface import ArcFaceLoss, SubCenterArcFaceLoss
from fastdml.losses.base import PairLoss
from fastdml.losses.binomial_deviance import BinomialDevianceLoss
from fastdml.losses.centroid_bank import CentroidBank
from fastdml.losses.circle import CircleLoss
from fastdml.losses.clustering import ClusteringLoss
from fastdml.losses.contrastive import ContrastiveLoss
from fastdml.losses.cosface import CosFaceLoss
from fastdml.losses.cross_batch_memory import CrossBatchMemory
from fastdml.losses.fat import FastApproximatedTripletLoss, FATLoss
from fastdml.losses.fat_hybrid import HybridFATLoss
from fastdml.losses.generalized_lifted_structure import GeneralizedLiftedStructureLoss
from fastdml.losses.lifted_structure import LiftedStructureLoss
from fastdml.losses.margin import MarginLoss
from fastdml.losses.multi_similarity import MultiSimilarityLoss
from fastdml.losses.multiple import MultipleLosses
from fastdml.losses.n_pairs import NPairsLoss
from fastdml.losses.normalized_softmax import NormalizedSoftmaxLoss
from fastdml.losses.ntxent import NTXentLoss
from fastdml.losses.proxy import ProxyLoss
from fastdml.losses.proxy_anchor import ProxyAnchorLoss
from fastdml.losses.proxy_nca import ProxyNCALoss
from fastdml.losses.rule import RuleLoss
from fastdml.losses.self_supervised import SelfSupervisedLoss
from fastdml.losses.soft_triple import HardTripleLoss, SoftTripleLoss
from fastdml.losses.sphereface import SphereFaceLoss
from fastdml.losses.supcon import SupConLoss
from fastdml.losses.triplet_margin import TripletMarginLoss

__all__ = [
    "ArcFaceLoss",
    "BinomialDevianceLoss",
    "CentroidBank",
    "CircleLoss",
    "ClusteringLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "FATLoss",
    "FastApproximatedTripletLoss",
    "GeneralizedLiftedStructureLoss",
    "HardTripleLoss",
    "HybridFATLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "MultipleLosses",
    "NPairsLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "PairLoss",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "ProxyNCALoss",
    "RuleLoss",
    "SelfSupervisedLoss",
    "SoftTripleLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
    "SupConLoss",
    "TripletMarginLoss",
]
