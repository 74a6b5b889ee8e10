"""What a run can be made of, by name: one line a loss, one line a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

from torch import nn

from fastdml.data import Split, glyphs
from fastdml.distances import LpDistance
from fastdml.losses import (
    ArcFaceLoss,
    BinomialDevianceLoss,
    CircleLoss,
    ClusteringLoss,
    ContrastiveLoss,
    CosFaceLoss,
    FastApproximatedTripletLoss,
    GeneralizedLiftedStructureLoss,
    HardTripleLoss,
    HybridFATLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultipleLosses,
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    NPairsLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    SphereFaceLoss,
    SubCenterArcFaceLoss,
    SupConLoss,
    TripletMarginLoss,
)
from fastdml.miners import (
    BatchEasyHardMiner,
    BatchHardMiner,
    PairMarginMiner,
    TripletMarginMiner,
)
from fastdml.training.config import ConfigError, TrainConfig

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class LossEntry:
    """A loss that can be trained with.

    Attributes:
        make: the loss for a number of training classes and a width of the embedding.
        about: one line about it.
        center_rate: learning rate of its centres of classes, over that of the network; None: it has none.
        samples_per_class: images of each class in a batch, unless another number is asked for.
    """

    make: Callable[[int, int], nn.Module]
    about: str
    center_rate: float | None = None
    samples_per_class: int = TrainConfig.samples_per_class

    @property
    def settings(self) -> str:
        """All that a run with it depends on, in one line: its arguments, rates and batches."""
        shown = " ".join(repr(self.make(2, 2)).split())
        return f"{shown}, center_rate {self.center_rate}, samples_per_class {self.samples_per_class}"


@dataclass(frozen=True)
class DatasetEntry:
    """A data set that can be trained on: ``load("train")`` or ``load("test")``, and one line about it."""

    load: Callable[[SplitName], Split]
    about: str


def _of_pairs(make: Callable[[], nn.Module], about: str) -> LossEntry:
    return LossEntry(lambda classes, width: make(), about)


def _of_classes(
    make: Callable[..., nn.Module], about: str, center_rate: float, samples_per_class: int = 2
) -> LossEntry:
    """A loss with centres: a batch of many classes moves more of them."""
    return LossEntry(
        lambda classes, width: make(num_classes=classes, embedding_size=width),
        about,
        center_rate,
        samples_per_class,
    )


def _mined(loss: nn.Module, miner: nn.Module) -> nn.Module:
    return MultipleLosses([loss], [miner])


_FAT: Mapping[str, Any] = {"margin": 0.5, "radius_weight": 0.1, "negatives": "hardest:5"}

LOSSES: Mapping[str, LossEntry] = {
    "multi-similarity": _of_pairs(
        lambda: MultiSimilarityLoss(epsilon=0.1),
        "Multi-Similarity with its pair mining fused in (epsilon 0.1)",
    ),
    "contrastive": _of_pairs(ContrastiveLoss, "contrastive loss of all pairs (margins 0 and 1)"),
    "contrastive-mined": _of_pairs(
        lambda: _mined(ContrastiveLoss(), PairMarginMiner(0.2, 0.8)),
        "contrastive loss of the pairs beyond the miner's margins (0.2 and 0.8)",
    ),
    "binomial-deviance": _of_pairs(BinomialDevianceLoss, "binomial deviance of all pairs"),
    "triplet": _of_pairs(lambda: TripletMarginLoss(0.2), "all triplets (margin 0.2), none of them listed"),
    "triplet-hard": _of_pairs(
        lambda: _mined(TripletMarginLoss(0.2), TripletMarginMiner(0.2, "hard")),
        "the triplets whose negative is closer than their positive",
    ),
    "triplet-semihard": _of_pairs(
        lambda: _mined(
            TripletMarginLoss.preset("paper"),
            TripletMarginMiner(0.2, "semihard", distance=LpDistance(power=2)),
        ),
        "FaceNet: squared distances, the triplets whose negative lies within the margin",
    ),
    "triplet-batch-hard": _of_pairs(
        lambda: _mined(TripletMarginLoss(0.2), BatchHardMiner()),
        "of every anchor the farthest positive and the closest negative",
    ),
    "triplet-easy-positive": _of_pairs(
        lambda: _mined(TripletMarginLoss(0.2), BatchEasyHardMiner("easy", "semihard")),
        "of every anchor the closest positive and the closest negative beyond it",
    ),
    "margin": _of_pairs(
        lambda: MarginLoss.preset("paper"), "margin loss, the boundary between the pairs learnt"
    ),
    "lifted": _of_pairs(LiftedStructureLoss, "lifted structure of every positive pair"),
    "generalised-lifted": _of_pairs(
        GeneralizedLiftedStructureLoss, "lifted structure in the form of one loss an anchor"
    ),
    "clustering": _of_pairs(
        lambda: ClusteringLoss(gamma=32), "the worst clustering of the batch against its classes (gamma 32)"
    ),
    # The paper's radius weight of 1 is for a pretrained backbone; from scratch it draws everything together.
    "fat": _of_pairs(
        partial(FastApproximatedTripletLoss, **_FAT),
        "FAT: the five nearest centroids of the batch (margin 0.5, radius weight 0.1)",
    ),
    "fat-hybrid": _of_classes(
        partial(HybridFATLoss, classifier_weight=0.3, **_FAT),
        "FAT with the cross-entropy of a classifier, of weight 0.3",
        1,
        samples_per_class=8,
    ),
    "n-pairs": _of_pairs(NPairsLoss, "one anchor and one positive of every class"),
    "nt-xent": _of_pairs(NTXentLoss, "NT-Xent, InfoNCE, of every positive pair (temperature 0.07)"),
    "supcon": _of_pairs(SupConLoss, "supervised contrastive (temperature 0.1)"),
    "circle": _of_pairs(CircleLoss, "circle loss (m 0.4, gamma 80)"),
    # Scales, margins and rates for a few hundred steps from scratch, chosen on held-out training classes.
    "soft-triple": _of_classes(
        partial(SoftTripleLoss.preset, "paper"), "SoftTriple, 10 centres a class (tau 0.2)", 2
    ),
    "soft-triple-many-centres": _of_classes(
        partial(SoftTripleLoss.preset, "many centres"), "SoftTriple, 20 centres a class (tau 0.2)", 2
    ),
    "hard-triple": _of_classes(
        partial(HardTripleLoss.preset, "paper"), "the closest of a class's 10 centres stands for it", 2
    ),
    "normalised-softmax": _of_classes(
        NormalizedSoftmaxLoss, "softmax of cosines to one centre a class (temperature 0.05)", 100
    ),
    "proxy-nca": _of_classes(
        partial(ProxyNCALoss, softmax_scale=4), "Proxy-NCA over all proxies (scale 4)", 40
    ),
    "arcface": _of_classes(
        partial(ArcFaceLoss, margin=14.3, scale=16), "the target's angle 14.3 degrees wider (scale 16)", 100
    ),
    "cosface": _of_classes(
        partial(CosFaceLoss, scale=16), "the target's cosine 0.35 smaller (scale 16)", 100
    ),
    "sphereface": _of_classes(
        partial(SphereFaceLoss, margin=1), "lengths kept (margin 1: more of it needs annealing)", 40
    ),
    "sub-centre-arcface": _of_classes(
        partial(SubCenterArcFaceLoss, scale=16), "28.6 degrees, the closest of 3 centres (scale 16)", 100
    ),
    "proxy-anchor": _of_classes(
        partial(ProxyAnchorLoss, alpha=16), "every proxy against the batch (margin 0.1, alpha 16)", 100
    ),
}

DATASETS: Mapping[str, DatasetEntry] = {
    "glyphs": DatasetEntry(glyphs.load, "kanji in many typefaces, 32 x 32 grey; built in"),
}


def find_loss(name: str) -> LossEntry:
    """The loss of that name; an unknown one raises ConfigError with the known names."""
    return _find("loss", name, LOSSES)


def find_dataset(name: str) -> DatasetEntry:
    """The data set of that name; an unknown one raises ConfigError with the known names."""
    return _find("data", name, DATASETS)


def _find(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        near = get_close_matches(name, table)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ConfigError(f"{kind} must be one of {', '.join(sorted(table))}, got {name!r}{hint}")
    return table[name]
