"""What the checks of behaviour run: losses of every engine, each with all that it is differentiated by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.blocked import EPSILON
from bench.gpu.centroid_accuracy import CentroidBatch, undisputed_limits
from bench.proxy_peers import CENTRES, CLASSES
from bench.workload import PER_CLASS, Workload
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others
from fastdml.functional import multi_similarity
from fastdml.losses import (
    ArcFaceLoss,
    CentroidBank,
    FastApproximatedTripletLoss,
    HardTripleLoss,
    ProxyLoss,
    ProxyNCALoss,
    SoftTripleLoss,
)

TINY_CLASSES = 60
FAT_MARGIN, NEAREST = 0.45, 5
"""The margin is such that about a third of the centroids are within, for untrained embeddings."""


@dataclass(frozen=True)
class Subject:
    """A loss of one batch.

    Attributes:
        loss: of the embeddings [N, D], a scalar; the same for any multiple of them.
        leaves: what it is differentiated by: the embeddings, then what the loss learns.
        reads_back: what the host asks the device for; empty where it never waits.
    """

    loss: Callable[[Tensor], Tensor]
    leaves: tuple[Tensor, ...]
    reads_back: str = ""

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


def _fat(negatives: str, work: Workload) -> Subject:
    """Against the centroids of the batch."""
    embeddings, labels = work.make()
    loss = FastApproximatedTripletLoss(FAT_MARGIN, negatives=negatives)
    return Subject(lambda rows: loss(rows, labels), (embeddings,), "the number of classes")


def _fat_with_bank(negatives: str, work: Workload) -> Subject:
    """Against those of a bank, which in evaluation takes nothing in, and on a CPU looks at the labels."""
    embeddings, labels = work.make()
    bank = CentroidBank(work.samples // PER_CLASS + 1, work.width).to(work.device)
    bank.fill([(embeddings.detach(), labels)])
    loss = FastApproximatedTripletLoss(FAT_MARGIN, negatives=negatives, bank=bank).eval()
    return Subject(lambda rows: loss(rows, labels), (embeddings,), "" if labels.is_cuda else "the labels")


def _centroid_operators(work: Workload) -> Subject:
    """All operators of the centroid engine, against points that are learnt."""
    embeddings, labels = work.make()
    classes = work.samples // PER_CLASS + 1
    generator = torch.Generator(work.device).manual_seed(classes)
    points = torch.randn(classes, work.width, generator=generator, device=work.device)
    points = F.normalize(points, dim=1).requires_grad_()
    names = torch.arange(classes, device=work.device)
    units = F.normalize(embeddings.detach().float(), dim=1)
    batch = CentroidBatch(units, points.detach(), labels, NEAREST)
    limits = undisputed_limits(batch, embeddings.dtype)  # compiled, the units are not the same in every bit

    def loss(embeddings: Tensor) -> Tensor:
        # products of 16 bits are asked for, not left to autocast
        with torch.autocast(work.device, enabled=False):
            rows = F.normalize(embeddings.float(), dim=1)
            near = nearest_others(rows, points, labels, names, NEAREST, product=embeddings.dtype)
            apart = listed_distances(rows, points, torch.cat([labels[:, None], near], dim=1))
            hinges = hinge_sums(rows, points, labels, limits, product=embeddings.dtype)
            sums = class_sums(rows, labels, classes)
            return hinges.mean() + apart.mean() + sums.square().mean()

    return Subject(loss, (embeddings, points))


TRIPLE: Mapping[str, Any] = {"centers_per_class": CENTRES}
SUBJECTS: Mapping[str, Mapping[str, Make]] = {
    "pair": {"multi-similarity": _mined},
    "proxy": {
        "soft-triple, regularised": partial(_with_centres, partial(SoftTripleLoss, tau=0.2, **TRIPLE)),
        "hard-triple": partial(_with_centres, partial(HardTripleLoss, **TRIPLE)),
        "arcface": partial(_with_centres, ArcFaceLoss),
        "proxy-nca": partial(_with_centres, ProxyNCALoss),
    },
    "centroid": {
        "FAT, all": partial(_fat, "all"),
        "FAT, batch": partial(_fat, f"batch:{NEAREST}"),
        "FAT with a bank, mean": partial(_fat_with_bank, "mean"),
        "FAT with a bank, hardest": partial(_fat_with_bank, f"hardest:{NEAREST}"),
        "centroid operators": _centroid_operators,
    },
}
"""By engine and name; of the proxy engine soft, closest and single centres, in columns and in rows."""
