"""The losses with centres as fastdml and pytorch-metric-learning compute them: same name, same arguments."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastdml
from bench.loss_peers import Library
from bench.peers import Contestant, Function, check_agreement, disagreements, pml_missing
from fastdml.backends import registry

CLASSES, CENTRES = 11318, 10
"""As many classes as Stanford Online Products trains, with SoftTriple's number of centres."""
CHECKED = (32, 24)
"""N and D of the batch on which contestants are held against each other."""
CLASSES_ON_CUDA = 113_180
"""What SoftTriple by itself is measured with on a GPU: 1,131,800 centres."""
MARGIN, GAMMA, LA = 0.01, 0.1, 20.0
REGULARISED = "soft-triple, regularised"


class WithCentres:
    """A loss whose centres are made, always the same, for the first embeddings that it sees.

    Gradients of the centres do not gather from step to step, as a training loop would see to.
    """

    def __init__(self, make: Any, classes: int = CLASSES) -> None:
        self.make, self.classes = make, classes
        self.module: nn.Module | None = None

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.module is None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.module = self.make(num_classes=self.classes, embedding_size=embeddings.shape[1])
            wide = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
            self.module.to(embeddings.device, wide)
        self.module.zero_grad(set_to_none=True)
        loss: Tensor = self.module(embeddings, labels)
        return loss

    def parameters(self) -> Iterator[nn.Parameter]:
        """The centres, once there are any."""
        return iter(()) if self.module is None else self.module.parameters()


class _On:
    """A loss on one backend; the backward needs none, for the forward's choice is saved."""

    def __init__(self, backend: str, loss: WithCentres) -> None:
        self.backend, self.loss = backend, loss

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with fastdml.use_backend(self.backend):
            return self.loss(embeddings, labels)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.loss.parameters()


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


class DenseSoftTriple(nn.Module):
    """SoftTriple as its formula says, over all similarities [B, C, K]."""

    def __init__(self, num_classes: int, embedding_size: int) -> None:
        super().__init__()
        self.fc = nn.Parameter(torch.empty(embedding_size, num_classes * CENTRES))
        nn.init.kaiming_uniform_(self.fc, a=math.sqrt(5))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch [B, D] with labels [B], a scalar."""
        units = F.normalize(self.fc, dim=0).to(embeddings.dtype)
        similarities = (F.normalize(embeddings, dim=1) @ units).unflatten(1, (-1, CENTRES))
        shares = torch.softmax(similarities / GAMMA, dim=2)
        classes = (shares * similarities).sum(dim=2)
        own = labels[:, None] == torch.arange(classes.shape[1], device=labels.device)
        return F.cross_entropy(LA * (classes - MARGIN * own).float(), labels)


def _compiled(**sizes: int) -> nn.Module:
    torch._dynamo.reset()  # keeps eight shapes
    module = DenseSoftTriple(**sizes)
    module.compile(dynamic=False, fullgraph=True)
    return module


def soft_triple_contestants(device: str) -> list[Contestant]:
    """SoftTriple without its regulariser: fastdml's backends, the dense form, compiled or not, and PML."""
    classes = CLASSES_ON_CUDA if device == "cuda" else CLASSES
    peers = LOSSES["soft-triple"]

    def fused(backend: str) -> Function:
        loss = WithCentres(peers.make("fastdml").make, classes)
        return _On(backend, loss)

    names = ("triton", "cuda") if device == "cuda" else ("cpu",)
    found = [
        Contestant(
            f"fastdml-{name}", partial(fused, name), registry.reason_against(name), compiles=name == "triton"
        )
        for name in names
    ]
    return [
        *found,
        Contestant("compiled", partial(WithCentres, _compiled, classes), compiles=True),
        Contestant("dense", partial(WithCentres, DenseSoftTriple, classes)),
        Contestant(
            "pml",
            lambda: WithCentres(peers.make("pytorch_metric_learning").make, classes),
            pml_missing(),
            largest_on_cpu=256,
        ),
    ]


def check_soft_triple(device: str) -> dict[str, str]:
    """The contestants of SoftTriple that differ from the dense form in float64, and how far off they are."""
    classes = CLASSES_ON_CUDA if device == "cuda" else CLASSES
    truth = _On("reference", WithCentres(LOSSES["soft-triple"].make("fastdml").make, classes))
    samples, width = CHECKED
    found = check_agreement(
        soft_triple_contestants(device), device, samples=samples, width=width, truth=truth
    )
    return disagreements(found)


def check_proxies(device: str, samples: int = CHECKED[0], width: int = CHECKED[1]) -> dict[str, str]:
    """The contestants that differ from fastdml's dense form in float64, and how far off they are."""
    wrong: dict[str, str] = {}
    contestants = proxy_contestants(device)
    for name, peers in LOSSES.items():
        own = [contestant for contestant in contestants if contestant.name.startswith(f"{name}/")]
        truth = _On("reference", peers.make("fastdml"))
        wrong |= disagreements(check_agreement(own, device, samples=samples, width=width, truth=truth))
    return wrong
