"""FAT as fastdml and dense PyTorch compute it, what it replaces, and the product that it cannot avoid."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.loss_peers import LOSSES
from bench.peers import Contestant, Function, check_agreement, disagreements, pml_missing
from bench.workload import PER_CLASS
from fastdml.backends import registry
from fastdml.losses import FastApproximatedTripletLoss

NEAREST, MARGIN = 5, 0.1
BLOCK = 4096
"""Rows of the product that are made at once, into the same memory, so that it holds no B x C matrix."""


def fat_contestants(device: str) -> list[Contestant]:
    """fastdml's backends, blocks of PyTorch, the dense form, one product, and all triplets by PML."""
    names = ("triton", "cuda") if device == "cuda" else ("cpu",)
    fused = [
        Contestant(
            f"fastdml-{name}", partial(_fused, name), registry.reason_against(name), compiles=name == "triton"
        )
        for name in names
    ]
    return [
        *fused,
        Contestant("blocked", partial(_fused, "blocked")),
        Contestant("dense", lambda: dense_fat, bytes_a_pair=20 / PER_CLASS),
        Contestant("product", lambda: one_product),
        Contestant(
            "pml",
            partial(LOSSES["triplets"].make, "pytorch_metric_learning"),
            pml_missing(),
            LOSSES["triplets"].bytes_a_pair,
            LOSSES["triplets"].bytes_a_cube,
            largest_on_cpu=2048,
        ),
    ]


def _fused(backend: str) -> Function:
    loss = FastApproximatedTripletLoss(negatives=f"hardest:{NEAREST}")

    def call(embeddings: Tensor, labels: Tensor) -> Tensor:
        with fastdml.use_backend(backend):
            found: Tensor = loss(embeddings, labels)
        return found

    return call


def dense_fat(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Normalised FAT with the nearest centroids as negatives, over all distances [B, C]."""
    classes, own = labels.unique(return_inverse=True)
    units = F.normalize(embeddings, dim=1)
    sums = units.new_zeros(len(classes), units.shape[1]).index_add(0, own, units)
    apart = torch.cdist(units, F.normalize(sums, dim=1))
    to_own = apart.gather(1, own[:, None])
    others = apart.scatter(1, own[:, None], torch.inf)
    hinges = F.relu(to_own - others.topk(NEAREST, dim=1, largest=False).values + MARGIN)
    radii = apart.new_zeros(len(classes)).scatter_reduce(0, own, to_own.squeeze(1), "amax")
    return hinges.mean() + radii.mean()


def one_product(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The products of all rows with as many others as there are classes, and nothing else."""
    rows = embeddings.detach()
    others = rows[: len(rows) // PER_CLASS].T
    found = rows.new_empty(min(BLOCK, len(rows)), others.shape[1])
    for block in rows.split(BLOCK):
        torch.mm(block, others, out=found[: len(block)])
    return embeddings[0, 0]


def check_fat(device: str) -> dict[str, str]:
    """The contestants that differ from fastdml's dense form in float64, and how far off they are."""
    same = [one for one in fat_contestants(device) if one.name not in ("product", "pml")]
    return disagreements(check_agreement(same, device, truth=_fused("reference")))
