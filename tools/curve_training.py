"""Trains one network with a loss of fastdml and with its namesake in pytorch-metric-learning: only the import
differs.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastdml.data import Augment, Split
from fastdml.data.samplers import ClassBalancedBatchSampler
from fastdml.recipes import parameter_groups
from fastdml.training.config import TrainConfig
from fastdml.training.evaluation import embed, retrieve
from fastdml.training.network import EmbeddingNetwork
from fastdml.training.schedule import RateSchedule

Library = Literal["fastdml", "pytorch_metric_learning"]
LIBRARIES: tuple[Library, ...] = ("pytorch_metric_learning", "fastdml")


@dataclass(frozen=True)
class Panel:
    """A loss and a miner or none, by their names in both libraries.

    Attributes:
        loss: name of the class; ``arguments`` are what differs from its defaults.
        miner: name of the miner's class, ``miner_arguments`` likewise.
        batch: images a step; 256, or 128 where pytorch-metric-learning's work is cubic.
    """

    loss: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    miner: str | None = None
    miner_arguments: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 256

    def make(self, library: Library) -> nn.Module:
        """The loss of embeddings and labels in one of the libraries."""
        losses, miners = (importlib.import_module(f"{library}.{part}") for part in ("losses", "miners"))
        loss = getattr(losses, self.loss)(**self.arguments)
        miner = None if self.miner is None else getattr(miners, self.miner)(**self.miner_arguments)
        return loss if miner is None else losses.MultipleLosses([loss], [miner])


CUBIC = 128
PANELS: dict[str, Panel] = {
    "Contrastive": Panel("ContrastiveLoss"),
    "Contrastive, pair margins": Panel("ContrastiveLoss", {}, "PairMarginMiner"),
    "Multi-Similarity": Panel("MultiSimilarityLoss"),
    "Multi-Similarity, mined": Panel("MultiSimilarityLoss", {}, "MultiSimilarityMiner", {"epsilon": 0.1}),
    "Circle": Panel("CircleLoss"),
    "Triplet": Panel("TripletMarginLoss", {"margin": 0.2}, batch=CUBIC),
    "Triplet, margin miner": Panel(
        "TripletMarginLoss", {"margin": 0.2}, "TripletMarginMiner", {"margin": 0.1}, CUBIC
    ),
    "Triplet, semihard": Panel(
        "TripletMarginLoss", {"margin": 0.2}, "TripletMarginMiner", {"type_of_triplets": "semihard"}, CUBIC
    ),
    "Triplet, hard": Panel(
        "TripletMarginLoss", {"margin": 0.2}, "TripletMarginMiner", {"type_of_triplets": "hard"}, CUBIC
    ),
    "Triplet, batch hard": Panel("TripletMarginLoss", {"margin": 0.2}, "BatchHardMiner"),
    "Triplet, easy positive": Panel("TripletMarginLoss", {"margin": 0.2}, "BatchEasyHardMiner"),
    "Margin, learnt beta": Panel("MarginLoss", {"learn_beta": True}, batch=CUBIC),
    "Lifted structure": Panel("LiftedStructureLoss", batch=CUBIC),
    "Generalised lifted": Panel("GeneralizedLiftedStructureLoss"),
    "N-pairs": Panel("NPairsLoss"),
    "NT-Xent": Panel("NTXentLoss", batch=CUBIC),
    "SupCon": Panel("SupConLoss"),
}
"""By the title in the figure."""


class Curve(NamedTuple):
    """The loss of every step, seconds in the loss in all (forward and backward), and Recall@1 afterwards."""

    losses: list[float]
    seconds: float
    recall_at_1: float


def train(
    panel: Panel,
    library: Library,
    config: TrainConfig,
    train_split: Split,
    test_split: Split,
    on_step: Callable[[], None],
    shaken: bool = False,
) -> Curve:
    """Train as ``config`` says, but for its loss and its batch, which are the panel's.

    ``shaken`` turns every number of the loss's gradient up or down by one part in 2^23, the rounding error
    of float32, at random.
    """
    torch.manual_seed(config.seed)
    model = EmbeddingNetwork(config.embedding_dim, config.network_width)
    model.set_pixel_statistics(train_split.images[torch.arange(len(train_split))])
    loss = panel.make(library)
    groups = parameter_groups(model, loss, lr=config.learning_rate, weight_decay=config.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    sampler = ClassBalancedBatchSampler(
        train_split.labels, panel.batch // config.samples_per_class, config.samples_per_class, config.seed,
        config.steps,
    )  # fmt: skip
    generator, noise = (torch.Generator().manual_seed(config.seed) for _ in range(2))
    augment = Augment()
    schedule = RateSchedule(warmup_steps=config.warmup_steps)
    losses, seconds = [], 0.0
    model.train()
    for step, rows in enumerate(sampler):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * schedule.factor(step, config.steps)
        optimiser.zero_grad(set_to_none=True)
        embeddings = model(augment(train_split.batch(rows), generator))
        value, gradient, took = _loss_step(loss, embeddings, train_split.labels[rows])
        if shaken:
            gradient *= 1 + (torch.randint(0, 2, gradient.shape, generator=noise) * 2 - 1) * 2.0**-23
        embeddings.backward(gradient)
        optimiser.step()
        losses.append(value)
        seconds += took
        on_step()
    found = retrieve(embed(model, test_split, torch.device("cpu")), test_split)
    return Curve(losses, seconds, found.result.recall[1])


def _loss_step(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> tuple[float, Tensor, float]:
    """The loss, its gradient by the embeddings, and the seconds that both took."""
    cut = embeddings.detach().requires_grad_()
    begun = time.perf_counter()
    value = loss(cut, labels)
    value.backward()
    took = time.perf_counter() - begun
    gradient = torch.zeros_like(cut) if cut.grad is None else cut.grad
    return float(value.detach()), gradient, took
