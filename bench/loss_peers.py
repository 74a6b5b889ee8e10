"""Every pair loss as fastdml and as pytorch-metric-learning compute it: same name, same arguments."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

import fastdml
from bench.blocked import EPSILON
from bench.peers import Contestant, Function, check_agreement, disagreements, pml_missing

Library = Literal["fastdml", "pytorch_metric_learning"]
CHECKED = (96, 24)
"""N and D of the batch on which contestants are held against each other."""
LARGEST_ON_CPU = 8192
"""The largest N that is worth waiting for PML on a CPU."""
MINED = "multi-similarity"
"""The yardstick: the loss that fastdml fused first, with its miner."""


@dataclass(frozen=True)
class LossPeers:
    """A loss, and a miner or none, that both libraries know by these names.

    Attributes:
        loss: name of the class.
        arguments: what differs from the defaults, which are the same in both.
        miner: name of the miner's class.
        in_pml: whether pytorch-metric-learning has it.
        bytes_a_pair: what PML holds at its peak for each of the N^2 pairs, float32, 8 samples a class.
        bytes_a_cube: the same for each of N^3.
    """

    loss: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    miner: str | None = None
    miner_arguments: Mapping[str, Any] = field(default_factory=dict)
    in_pml: bool = True
    bytes_a_pair: float = 70.0
    bytes_a_cube: float = 0.0

    def make(self, library: Library, **options: Any) -> Function:
        """The loss of a batch in one of the libraries, with further arguments of the loss."""
        losses, miners = (importlib.import_module(f"{library}.{part}") for part in ("losses", "miners"))
        loss = getattr(losses, self.loss)(**self.arguments, **options)
        if self.miner is None:
            return loss
        miner = getattr(miners, self.miner)(**self.miner_arguments)
        return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


LOSSES: Mapping[str, LossPeers] = {
    MINED: LossPeers(
        "MultiSimilarityLoss", miner="MultiSimilarityMiner", miner_arguments={"epsilon": EPSILON}
    ),
    "contrastive": LossPeers("ContrastiveLoss"),
    "supcon": LossPeers("SupConLoss"),
    "generalised lifted": LossPeers("GeneralizedLiftedStructureLoss"),
    "circle": LossPeers("CircleLoss"),
    "binomial deviance": LossPeers("BinomialDevianceLoss", in_pml=False),
    "nt-xent": LossPeers("NTXentLoss", bytes_a_cube=116),
    "lifted": LossPeers("LiftedStructureLoss", bytes_a_cube=150),
    "n-pairs": LossPeers("NPairsLoss", bytes_a_pair=18),
    "margin": LossPeers("MarginLoss", bytes_a_cube=1.6),
    "triplets": LossPeers("TripletMarginLoss", bytes_a_cube=1.6),
}
"""By the name in the tables: all triplets, and no miner but that of the yardstick."""


def loss_contestants(device: str) -> list[Contestant]:
    """fastdml, with the backend it chooses by itself, and PML, for each loss: "<loss>/<library>"."""
    found = []
    for name, peers in LOSSES.items():
        own = Contestant(f"{name}/fastdml", partial(peers.make, "fastdml"), compiles=device == "cuda")
        found.append(own)
        if peers.in_pml:
            found.append(
                Contestant(
                    f"{name}/pml",
                    partial(peers.make, "pytorch_metric_learning"),
                    pml_missing(),
                    peers.bytes_a_pair,
                    peers.bytes_a_cube,
                    LARGEST_ON_CPU,
                )
            )
    return found


def check_losses(device: str, samples: int = CHECKED[0], width: int = CHECKED[1]) -> dict[str, str]:
    """The contestants that differ from fastdml's dense form in float64, and how far off they are."""
    wrong: dict[str, str] = {}
    contestants = loss_contestants(device)
    for name, peers in LOSSES.items():
        own = [contestant for contestant in contestants if contestant.name.startswith(f"{name}/")]
        wrong |= disagreements(
            check_agreement(own, device, samples=samples, width=width, truth=partial(_dense, peers))
        )
    return wrong


def _dense(peers: LossPeers, embeddings: Tensor, labels: Tensor) -> Tensor:
    with fastdml.use_backend("reference"):
        loss: Tensor = peers.make("fastdml")(embeddings, labels)
    return loss
