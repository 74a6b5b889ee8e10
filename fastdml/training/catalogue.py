"""What a run can be made of, by name: one line a loss, one line a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from torch import nn

from fastdml.data import Split, glyphs
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
from fastdml.training.loss_options import check_options, make_with_options

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class LossEntry:
    """A loss that can be trained with.

    Attributes:
        build: called with a number of training classes, a width of the embedding and options.
        about: one line about it.
        center_rate: learning rate of its centres of classes, over that of the network; None: it has none.
        samples_per_class: images of each class in a batch, unless another number is asked for.
        kind: the class whose arguments the options are; None: it has no options.
        miner: the class whose arguments are in the option "miner"; None: it has no miner.
    """

    build: Callable[..., nn.Module]
    about: str
    center_rate: float | None = None
    samples_per_class: int = TrainConfig.samples_per_class
    kind: type[nn.Module] | None = None
    miner: type[nn.Module] | None = None

    def make(self, classes: int, width: int, **options: Any) -> nn.Module:
        """The loss for a number of training classes and a width of the embedding.

        ``options`` are arguments that differ from those here, as ``loss_options`` of a run gives them; those
        of its miner are a mapping by the name "miner". Raises ConfigError on one that does not exist, and
        InputError on a value that the loss does not accept.
        """
        self.check(options)
        return self.build(classes, width, **options)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raises ConfigError, with the options that there are, on one that does not exist or fit."""
        own = {name: value for name, value in options.items() if name != "miner"}
        if self.kind is not None:
            check_options(self.kind, own, "loss_options")
        elif own:
            raise ConfigError(f"loss_options must be empty for this loss, got {', '.join(own)}")
        if "miner" not in options:
            return
        if self.miner is None:
            raise ConfigError("loss_options.miner must be left out: this loss has no miner")
        if not isinstance(options["miner"], Mapping):
            raise ConfigError(f"loss_options.miner must be a table, got {options['miner']!r}")
        check_options(self.miner, options["miner"], "loss_options.miner")

    @property
    def settings(self) -> str:
        """All that a run with it depends on, in one line: its arguments, rates and batches."""
        return self.settings_with({})

    def settings_with(self, options: Mapping[str, Any]) -> str:
        """``settings`` where options differ."""
        shown = " ".join(repr(self.make(2, 2, **options)).split())
        return f"{shown}, center_rate {self.center_rate}, samples_per_class {self.samples_per_class}"


@dataclass(frozen=True)
class DatasetEntry:
    """A data set that can be trained on: ``load("train")`` or ``load("test")``, and one line about it."""

    load: Callable[[SplitName], Split]
    about: str


def _of_pairs(
    kind: type[nn.Module],
    about: str,
    samples_per_class: int = TrainConfig.samples_per_class,
    **arguments: Any,
) -> LossEntry:
    def build(classes: int, width: int, **options: Any) -> nn.Module:
        del classes, width
        return make_with_options(kind, arguments, options)

    return LossEntry(build, about, None, samples_per_class, kind)


def _of_classes(
    kind: type[nn.Module], about: str, center_rate: float, samples_per_class: int = 2, **arguments: Any
) -> LossEntry:
    """A loss with centres: a batch of many classes moves more of them."""

    def build(classes: int, width: int, **options: Any) -> nn.Module:
        sizes = {"num_classes": classes, "embedding_size": width}
        return make_with_options(kind, arguments, {**sizes, **options})

    return LossEntry(build, about, center_rate, samples_per_class, kind)


def _mined(
    kind: type[nn.Module],
    about: str,
    miner: type[nn.Module],
    arguments: Mapping[str, Any],
    miner_arguments: Mapping[str, Any],
) -> LossEntry:
    """A loss of the pairs or triplets that a miner chooses."""

    def build(classes: int, width: int, **options: Any) -> nn.Module:
        del classes, width
        mining = options.pop("miner", {})
        loss = make_with_options(kind, arguments, options)
        return MultipleLosses([loss], [make_with_options(miner, miner_arguments, mining)])

    return LossEntry(build, about, kind=kind, miner=miner)


_FAT: Mapping[str, Any] = {"margin": 0.5, "radius_weight": 0.1, "negatives": "hardest:5"}
_TRIPLET: Mapping[str, Any] = {"margin": 0.2}

LOSSES: Mapping[str, LossEntry] = {
    "multi-similarity": _of_pairs(
        MultiSimilarityLoss,
        "Multi-Similarity with its pair mining fused in (epsilon 0.1)",
        epsilon=0.1,
    ),
    "contrastive": _of_pairs(ContrastiveLoss, "contrastive loss of all pairs (margins 0 and 1)"),
    "contrastive-mined": _mined(
        ContrastiveLoss,
        "contrastive loss of the pairs beyond the miner's margins (0.2 and 0.8)",
        PairMarginMiner,
        {},
        {"pos_margin": 0.2, "neg_margin": 0.8},
    ),
    "binomial-deviance": _of_pairs(BinomialDevianceLoss, "binomial deviance of all pairs"),
    "triplet": _of_pairs(TripletMarginLoss, "all triplets (margin 0.2), none of them listed", **_TRIPLET),
    "triplet-hard": _mined(
        TripletMarginLoss,
        "the triplets whose negative is closer than their positive",
        TripletMarginMiner,
        _TRIPLET,
        {"margin": 0.2, "type_of_triplets": "hard"},
    ),
    "triplet-semihard": _mined(
        TripletMarginLoss,
        "FaceNet: squared distances, the triplets whose negative lies within the margin",
        TripletMarginMiner,
        {"preset": "paper"},
        {"margin": 0.2, "type_of_triplets": "semihard", "distance": "squared euclidean"},
    ),
    "triplet-batch-hard": _mined(
        TripletMarginLoss,
        "of every anchor the farthest positive and the closest negative",
        BatchHardMiner,
        _TRIPLET,
        {},
    ),
    "triplet-easy-positive": _mined(
        TripletMarginLoss,
        "of every anchor the closest positive and the closest negative beyond it",
        BatchEasyHardMiner,
        _TRIPLET,
        {"pos_strategy": "easy", "neg_strategy": "semihard"},
    ),
    "margin": _of_pairs(MarginLoss, "margin loss, the boundary between the pairs learnt", preset="paper"),
    "lifted": _of_pairs(LiftedStructureLoss, "lifted structure of every positive pair"),
    "generalised-lifted": _of_pairs(
        GeneralizedLiftedStructureLoss, "lifted structure in the form of one loss an anchor"
    ),
    "clustering": _of_pairs(
        ClusteringLoss, "the worst clustering of the batch against its classes (gamma 32)", gamma=32
    ),
    # The paper's radius weight of 1 is for a pretrained backbone; from scratch it draws everything together.
    "fat": _of_pairs(
        FastApproximatedTripletLoss,
        "FAT: the five nearest centroids of the batch (margin 0.5, radius weight 0.1)",
        **_FAT,
    ),
    "fat-hybrid": _of_classes(
        HybridFATLoss,
        "FAT with the cross-entropy of a classifier, of weight 0.3",
        1,
        samples_per_class=8,
        classifier_weight=0.3,
        **_FAT,
    ),
    "n-pairs": _of_pairs(NPairsLoss, "one anchor and one positive of every class", samples_per_class=2),
    "nt-xent": _of_pairs(NTXentLoss, "NT-Xent, InfoNCE, of every positive pair (temperature 0.07)"),
    "supcon": _of_pairs(SupConLoss, "supervised contrastive (temperature 0.1)"),
    "circle": _of_pairs(CircleLoss, "circle loss (m 0.4, gamma 80)"),
    # Scales, margins and rates for a few hundred steps from scratch, chosen on held-out training classes.
    "soft-triple": _of_classes(SoftTripleLoss, "SoftTriple, 10 centres a class (tau 0.2)", 2, preset="paper"),
    "soft-triple-many-centres": _of_classes(
        SoftTripleLoss, "SoftTriple, 20 centres a class (tau 0.2)", 2, preset="many centres"
    ),
    "hard-triple": _of_classes(
        HardTripleLoss, "the closest of a class's 10 centres stands for it", 2, preset="paper"
    ),
    "normalised-softmax": _of_classes(
        NormalizedSoftmaxLoss, "softmax of cosines to one centre a class (temperature 0.05)", 100
    ),
    "proxy-nca": _of_classes(ProxyNCALoss, "Proxy-NCA over all proxies (scale 4)", 40, softmax_scale=4),
    "arcface": _of_classes(
        ArcFaceLoss, "the target's angle 14.3 degrees wider (scale 16)", 100, margin=14.3, scale=16
    ),
    "cosface": _of_classes(CosFaceLoss, "the target's cosine 0.35 smaller (scale 16)", 100, scale=16),
    "sphereface": _of_classes(
        SphereFaceLoss, "lengths kept (margin 1: more of it needs annealing)", 40, margin=1
    ),
    "sub-centre-arcface": _of_classes(
        SubCenterArcFaceLoss, "28.6 degrees, the closest of 3 centres (scale 16)", 100, scale=16
    ),
    "proxy-anchor": _of_classes(
        ProxyAnchorLoss, "every proxy against the batch (margin 0.1, alpha 16)", 100, alpha=16
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
