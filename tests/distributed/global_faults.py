"""What ranks do with arguments, losses and numbers that do not fit."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from global_cases import CLASSES, WIDTH, Found, differentiated, loss_named, own, samples, squares_of_losses
from torch import Tensor

from fastdml import losses
from fastdml.distributed import GlobalBatchLoss, shard_centers
from fastdml.errors import InputError


def refused_by(group: Any, fault: str) -> str:
    """The message of the error of a call that does not fit on rank 1, or on any."""
    rank = dist.get_rank(group)
    name = "margin, a boundary a class" if fault == "unknown label" else "multi-similarity"
    loss = loss_named("arcface" if fault == "label of no centre" else name)
    embeddings, labels = (own(group, (9, 8), values) for values in samples(torch.float32))
    options: dict[str, Any] = {}
    if fault in ("unknown label", "label of no centre") and rank == 1:
        labels = labels + CLASSES
    if fault == "shape" and rank == 1:
        labels = labels[1:]
    if fault == "width" and rank == 1:
        embeddings = embeddings[:, 1:]
    if fault == "dtype" and rank == 1:
        embeddings = embeddings.double()
    if fault == "no tensor" and rank == 1:
        embeddings = embeddings.tolist()
    if fault == "soft labels":
        labels = torch.rand(len(embeddings), CLASSES)
    if fault == "indices_tuple":
        options["indices_tuple"] = (torch.zeros(1, dtype=torch.int64),) * 4
    if fault == "confidence":
        options["confidence"] = torch.ones(len(embeddings))
    if fault == "confidence on one":
        loss = losses.FATLoss()
        options["confidence"] = torch.ones(len(embeddings)) if rank else None
    if fault == "memory":
        loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), WIDTH, 10)
    try:
        GlobalBatchLoss(loss, group)(embeddings, labels, **options)
    except (InputError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def refused_losses(group: Any) -> dict[str, str]:
    bank = losses.CentroidBank(CLASSES, WIDTH)
    sampled = {"triplets_per_anchor": 3, "reducer": squares_of_losses}
    found = {}
    for name, loss in {
        "sharded": shard_centers(losses.ArcFaceLoss(CLASSES, WIDTH), group),
        "global": GlobalBatchLoss(losses.ContrastiveLoss(), group),
        "self-supervised": losses.SelfSupervisedLoss(losses.NTXentLoss()),
        "bank": losses.MultipleLosses([losses.FATLoss(bank=bank)]),
        "sampled": losses.TripletMarginLoss(**sampled),
    }.items():
        try:
            GlobalBatchLoss(loss, group)
            found[name] = "no error"
        except InputError as error:
            found[name] = str(error)
    return found


def not_finite(group: Any, name: str) -> tuple[Tensor, Tensor]:
    """A NaN in the batch of rank 1: the value, and this rank's gradient."""
    embeddings, labels = (own(group, (9, 8), values) for values in samples())
    if dist.get_rank(group) == 1:
        embeddings[0, 0] = torch.nan
    found = differentiated(GlobalBatchLoss(loss_named(name).double(), group), embeddings, labels)
    return found.values[0], found.embeddings


def with_mixed_wants(group: Any, name: str) -> Tensor | None:
    """Only rank 1 differentiates its embeddings: their gradient."""
    embeddings, labels = (own(group, (9, 8), values) for values in samples())
    if dist.get_rank(group) == 1:
        embeddings.requires_grad_()
    (GlobalBatchLoss(loss_named(name).double(), group)(embeddings, labels) * 1.5).backward()
    return embeddings.grad


def of_nothing(group: Any, name: str) -> Found:
    loss = GlobalBatchLoss(loss_named(name).double(), group)
    return differentiated(loss, torch.empty(0, WIDTH, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
