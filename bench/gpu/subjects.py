"""What the checks of behaviour run: losses of every engine, each with all that it is differentiated by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.blocked import EPSILON
from bench.proxy_peers import CENTRES, CLASSES
from bench.workload import PER_CLASS, Workload
from fastdml.functional import multi_similarity
from fastdml.losses import ArcFaceLoss, HardTripleLoss, ProxyLoss, ProxyNCALoss, SoftTripleLoss

TINY_CLASSES = 60


@dataclass(frozen=True)
class Subject:
    """A loss of one batch.

    Attributes:
        loss: of the embeddings [N, D], a scalar; the same for any multiple of them.
        leaves: what it is differentiated by: the embeddings, then what the loss learns.
    """

    loss: Callable[[Tensor], Tensor]
    leaves: tuple[Tensor, ...]

    def step(self) -> list[Tensor]:
        """The loss and its gradients by the leaves."""
        loss = self.loss(self.leaves[0])
        return [loss.detach(), *torch.autograd.grad(loss, self.leaves)]

    @torch.no_grad()
    def write(self, values: list[Tensor]) -> None:
        """Overwrites the leaves where they lie."""
        for leaf, value in zip(self.leaves, values, strict=True):
            leaf.copy_(value)


Make = Callable[[Workload], Subject]


def _mined(work: Workload) -> Subject:
    embeddings, labels = work.make()
    return Subject(lambda rows: multi_similarity(rows, labels, epsilon=EPSILON), (embeddings,))


def _with_centres(make: Callable[..., ProxyLoss], work: Workload) -> Subject:
    """On a GPU of so many classes that they are several chunks, over which the labels are spread."""
    embeddings, labels = work.make()
    classes = CLASSES if work.device == "cuda" else TINY_CLASSES
    labels = labels * (classes // (work.samples // PER_CLASS + 1))
    torch.manual_seed(0)
    module = make(num_classes=classes, embedding_size=work.width).to(work.device)
    return Subject(lambda rows: module(rows, labels), (embeddings, module.centers))


TRIPLE: Mapping[str, Any] = {"centers_per_class": CENTRES}
SUBJECTS: Mapping[str, Mapping[str, Make]] = {
    "pair": {"multi-similarity": _mined},
    "proxy": {
        "soft-triple, regularised": partial(_with_centres, partial(SoftTripleLoss, tau=0.2, **TRIPLE)),
        "hard-triple": partial(_with_centres, partial(HardTripleLoss, **TRIPLE)),
        "arcface": partial(_with_centres, ArcFaceLoss),
        "proxy-nca": partial(_with_centres, ProxyNCALoss),
    },
}
"""By engine and name; of the proxy engine soft, closest and single centres, in columns and in rows."""
