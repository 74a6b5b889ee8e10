"""FAT with every choice of negatives on every fused backend, against the reference in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.gpu.proof import Setting, require_as_accurate
from bench.gpu.rounding import product_of, rounded_distances
from fastdml.backends.dtypes import accumulator
from fastdml.losses import FastApproximatedTripletLoss

NEGATIVES = ("all", "mean", "hardest:5", "batch:5")
MARGIN = 0.45
"""So that about a third of the centroids are within, for batches as they are drawn here."""
UNDISPUTED = 1e-6
"""Distances further apart than this are told apart in float32, of unit vectors."""


class DenseFAT(NamedTuple):
    """FAT over all distances."""

    hinges: Tensor
    """[B]."""
    radius: Tensor
    """The mean over the classes of their largest."""
    closest: Tensor
    """How close any choice is: of a hinge to 0, of the last of the nearest to the first beyond them."""


def fat_accuracy(setting: Setting, backend: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every choice of negatives, dtype of the embeddings and width."""
    widths = (24,) if setting.tiny else (16, 64, 100, 128, 256, 512, 1024)
    for negatives in NEGATIVES:
        for width in widths:
            for dtype in setting.dtypes:
                yield (
                    f"FAT {negatives}, width {width}, {dtype}",
                    partial(_compare, setting, backend, negatives, width, dtype),
                )


def _compare(setting: Setting, backend: str, negatives: str, width: int, dtype: str) -> str:
    product = product_of(backend, dtype)
    embeddings, labels = _undisputed_batch(setting, negatives, width, getattr(torch, dtype), product)

    def plain(rows: Tensor) -> tuple[Tensor, Tensor]:
        dense = dense_fat(rows, labels, negatives, product)
        return dense.hinges, dense.hinges.mean() + dense.radius

    def exact(rows: Tensor) -> tuple[Tensor, Tensor]:
        return _loss(rows, labels, negatives, "reference")

    def fused(rows: Tensor) -> tuple[Tensor, Tensor]:
        return _loss(rows, labels, negatives, backend)

    return require_as_accurate(
        _gather(embeddings, fused), _gather(embeddings, plain), _gather(embeddings.double(), exact)
    )


def _loss(rows: Tensor, labels: Tensor, negatives: str, backend: str) -> tuple[Tensor, Tensor]:
    """The hinges [B], and their mean with the radius."""
    with fastdml.use_backend(backend):
        hinges, loss = (
            FastApproximatedTripletLoss(MARGIN, negatives=negatives, reducer=reducer)(rows, labels)
            for reducer in ("none", "mean")
        )
    return hinges, loss


def _gather(embeddings: Tensor, compute: Callable[[Tensor], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    rows = embeddings.detach().clone().requires_grad_()
    hinges, loss = compute(rows)
    # Upstream gradients that differ from row to row, in sign too.
    scale = torch.linspace(-0.4, 1.1, len(hinges), device=rows.device, dtype=hinges.dtype)
    (gradient,) = torch.autograd.grad((hinges * scale).sum(), rows, retain_graph=True)
    (of_mean,) = torch.autograd.grad(loss, rows)
    return {
        "hinges": hinges.detach(),
        "loss": loss.detach(),
        "gradient of hinges": gradient,
        "gradient of the loss": of_mean,
    }


def _undisputed_batch(
    setting: Setting, negatives: str, width: int, dtype: torch.dtype, product: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Embeddings [B, D] of ``dtype`` and labels of which no choice is settled by a rounding error."""
    samples, classes = (60, 9) if setting.tiny else (160, 20)
    labels = torch.arange(samples) % classes
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(1000 * width + seed)
        centres = torch.randn(classes, width, generator=generator)
        rows = (2 * torch.randn(samples, width, generator=generator) + centres[labels]).to(dtype)
        if dense_fat(rows.double(), labels, negatives, product).closest > UNDISPUTED:
            break
    return rows.to(setting.device), labels.to(setting.device)


def dense_fat(embeddings: Tensor, labels: Tensor, negatives: str, product: torch.dtype) -> DenseFAT:
    """FAT of unit vectors, in the accumulator dtype but for products, whose factors are rounded.

    Args:
        embeddings: [B, D].
        labels: [B].
        negatives: one of ``NEGATIVES``.
        product: what the factors of products are rounded to.
    """
    _, own = labels.unique(return_inverse=True)
    rows = F.normalize(embeddings.to(accumulator(embeddings.dtype)), dim=1)
    members = F.one_hot(own).bool()
    centroids = F.normalize(members.to(rows).T @ rows, dim=1)
    to_own = (rows - centroids[own]).norm(dim=1)
    radii = torch.where(members, to_own[:, None], 0).amax(dim=0)
    choice, _, number = negatives.partition(":")
    others, same = (rows, own[:, None] == own) if choice == "batch" else (centroids, members)
    apart = rounded_distances(rows, others, product)
    slack = to_own[:, None] + MARGIN - apart
    count = (~same).sum(dim=1)
    closest = slack[~same].abs().amin()
    if choice == "mean":
        mean = apart.masked_fill(same, 0).sum(dim=1) / count
        hinges = F.relu(to_own - mean + MARGIN)
        closest = (to_own - mean + MARGIN).abs().amin()
    elif choice == "all":
        hinges = F.relu(slack).masked_fill(same, 0).sum(dim=1) / count
    else:
        nearest = apart.masked_fill(same, torch.inf).topk(int(number) + 1, dim=1, largest=False)
        chosen = nearest.indices[:, :-1]
        distances = (rows[:, None] - others[chosen]).norm(dim=2)
        hinges = F.relu(to_own[:, None] - distances + MARGIN).mean(dim=1)
        closest = torch.minimum(closest, nearest.values.diff(dim=1)[:, -1].amin())
    return DenseFAT(hinges, radii.mean(), closest.detach())
