"""What a run can be made of, by name: one line a loss, one line a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fastdml.data import Split, glyphs
from fastdml.distances import LpDistance
from fastdml.losses import (
    BinomialDevianceLoss,
    CircleLoss,
    ContrastiveLoss,
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultipleLosses,
    MultiSimilarityLoss,
    NPairsLoss,
    NTXentLoss,
    SupConLoss,
    TripletMarginLoss,
)
from fastdml.miners import (
    BatchEasyHardMiner,
    BatchHardMiner,
    PairMarginMiner,
    TripletMarginMiner,
)
from fastdml.training.config import ConfigError

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class LossEntry:
    """A loss that can be trained with: how it is made, and one line about it."""

    make: Callable[[], nn.Module]
    about: str


@dataclass(frozen=True)
class DatasetEntry:
    """A data set that can be trained on: ``load("train")`` or ``load("test")``, and one line about it."""

    load: Callable[[SplitName], Split]
    about: str


def _mined(loss: nn.Module, miner: nn.Module) -> nn.Module:
    return MultipleLosses([loss], [miner])


LOSSES: Mapping[str, LossEntry] = {
    "multi-similarity": LossEntry(
        lambda: MultiSimilarityLoss(epsilon=0.1),
        "Multi-Similarity with its pair mining fused in (epsilon 0.1)",
    ),
    "contrastive": LossEntry(ContrastiveLoss, "contrastive loss of all pairs (margins 0 and 1)"),
    "contrastive-mined": LossEntry(
        lambda: _mined(ContrastiveLoss(), PairMarginMiner(0.2, 0.8)),
        "contrastive loss of the pairs beyond the miner's margins (0.2 and 0.8)",
    ),
    "binomial-deviance": LossEntry(BinomialDevianceLoss, "binomial deviance of all pairs"),
    "triplet": LossEntry(lambda: TripletMarginLoss(0.2), "all triplets (margin 0.2), none of them listed"),
    "triplet-hard": LossEntry(
        lambda: _mined(TripletMarginLoss(0.2), TripletMarginMiner(0.2, "hard")),
        "the triplets whose negative is closer than their positive",
    ),
    "triplet-semihard": LossEntry(
        lambda: _mined(
            TripletMarginLoss.preset("paper"),
            TripletMarginMiner(0.2, "semihard", distance=LpDistance(power=2)),
        ),
        "FaceNet: squared distances, the triplets whose negative lies within the margin",
    ),
    "triplet-batch-hard": LossEntry(
        lambda: _mined(TripletMarginLoss(0.2), BatchHardMiner()),
        "of every anchor the farthest positive and the closest negative",
    ),
    "triplet-easy-positive": LossEntry(
        lambda: _mined(TripletMarginLoss(0.2), BatchEasyHardMiner("easy", "semihard")),
        "of every anchor the closest positive and the closest negative beyond it",
    ),
    "margin": LossEntry(
        lambda: MarginLoss.preset("paper"), "margin loss, the boundary between the pairs learnt"
    ),
    "lifted": LossEntry(LiftedStructureLoss, "lifted structure of every positive pair"),
    "generalised-lifted": LossEntry(
        GeneralizedLiftedStructureLoss, "lifted structure in the form of one loss an anchor"
    ),
    "n-pairs": LossEntry(NPairsLoss, "one anchor and one positive of every class"),
    "nt-xent": LossEntry(NTXentLoss, "NT-Xent, InfoNCE, of every positive pair (temperature 0.07)"),
    "supcon": LossEntry(SupConLoss, "supervised contrastive (temperature 0.1)"),
    "circle": LossEntry(CircleLoss, "circle loss (m 0.4, gamma 80)"),
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
        raise ConfigError(f"{kind} must be one of {', '.join(sorted(table))}, got {name!r}")
    return table[name]
