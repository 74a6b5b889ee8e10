"""The losses with centres as fastdml and pytorch-metric-learning compute them: same name, same arguments."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastdml
from bench.loss_peers import Library
from bench.peers import Contestant, check_agreement, disagreements, pml_missing

CLASSES, CENTRES = 11318, 10
"""As many classes as Stanford Online Products trains, with SoftTriple's number of centres."""
REGULARISED = "soft-triple, regularised"


class WithCentres:
    """A loss whose centres are made, always the same, for the first embeddings that it sees.

    Gradients of the centres do not gather from step to step, as a training loop would see to.
    """

    def __init__(self, make: Any) -> None:
        self.make = make
        self.module: nn.Module | None = None

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.module is None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.module = self.make(num_classes=CLASSES, embedding_size=embeddings.shape[1])
            wide = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
            self.module.to(embeddings.device, wide)
        self.module.zero_grad(set_to_none=True)
        loss: Tensor = self.module(embeddings, labels)
        return loss

    def parameters(self) -> Iterator[nn.Parameter]:
        """The centres, once there are any."""
        return iter(()) if self.module is None else self.module.parameters()


@dataclass(frozen=True)
class ProxyPeers:
    """A loss that both libraries know by this name.

    Attributes:
        loss: name of the class.
        arguments: what differs from the defaults, which are the same in both.
        in_pml: whether pytorch-metric-learning has it, and can run it at this number of classes.
    """

    loss: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    in_pml: bool = True

    def make(self, library: Library) -> WithCentres:
        """The loss of a batch in one of the libraries."""
        losses = importlib.import_module(f"{library}.losses")
        return WithCentres(partial(getattr(losses, self.loss), **self.arguments))


LOSSES: Mapping[str, ProxyPeers] = {
    "soft-triple": ProxyPeers("SoftTripleLoss", {"centers_per_class": CENTRES}),
    # the regulariser of PML compares all centres with each other: 51 GB here
    REGULARISED: ProxyPeers("SoftTripleLoss", {"centers_per_class": CENTRES, "tau": 0.2}, in_pml=False),
    "hard-triple": ProxyPeers("HardTripleLoss", {"centers_per_class": CENTRES}, in_pml=False),
    "sub-centre arcface": ProxyPeers("SubCenterArcFaceLoss"),
    "normalised softmax": ProxyPeers("NormalizedSoftmaxLoss"),
    "proxy-nca": ProxyPeers("ProxyNCALoss"),
    "arcface": ProxyPeers("ArcFaceLoss"),
    "cosface": ProxyPeers("CosFaceLoss"),
    "sphereface": ProxyPeers("SphereFaceLoss"),
    "proxy-anchor": ProxyPeers("ProxyAnchorLoss"),
}
"""By the name in the tables."""


def proxy_contestants(device: str) -> list[Contestant]:
    """fastdml, with the backend it chooses by itself, and PML, for each loss: "<loss>/<library>"."""
    found = []
    for name, peers in LOSSES.items():
        own = partial(peers.make, "fastdml")
        found.append(Contestant(f"{name}/fastdml", own, compiles=device == "cuda"))
        if peers.in_pml:
            theirs = partial(peers.make, "pytorch_metric_learning")
            found.append(Contestant(f"{name}/pml", theirs, pml_missing()))
    return found


def check_proxies(device: str, samples: int = 32, width: int = 24) -> dict[str, str]:
    """The contestants that differ from fastdml's dense form in float64, and how far off they are."""
    wrong: dict[str, str] = {}
    contestants = proxy_contestants(device)
    for name, peers in LOSSES.items():
        own = [contestant for contestant in contestants if contestant.name.startswith(f"{name}/")]
        truth = _Dense(peers.make("fastdml"))
        wrong |= disagreements(check_agreement(own, device, samples=samples, width=width, truth=truth))
    return wrong


class _Dense:
    def __init__(self, loss: WithCentres) -> None:
        self.loss = loss

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with fastdml.use_backend("reference"):
            return self.loss(embeddings, labels)
