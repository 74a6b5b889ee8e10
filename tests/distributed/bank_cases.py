"""What ranks do with a centroid bank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastdml.losses import CentroidBank, FATLoss, HybridFATLoss


def data() -> tuple[Tensor, Tensor]:
    """Samples of all ranks."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(50, 6, generator=generator), torch.randint(7, (50,), generator=generator)


def streamed(group: Any, momentum: float | None) -> Tensor:
    """The centroids of this rank, which saw every other sample."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    embeddings, labels = (values[rank::ranks] for values in data())
    bank = CentroidBank(8, 6, momentum=momentum, group=group)
    batches = [(embeddings[:7], labels[:7]), (embeddings[7:], labels[7:])]
    if momentum is None:
        bank.fill(batches)
    for batch in batches if momentum is not None else ():
        bank.update(*batch)
    return bank.centroids


def epochs_of_uneven_batches(group: Any) -> list[int]:
    """Samples served by this rank at the end of each of three epochs; rank 1 has smaller batches."""
    embeddings, labels = data()
    size = 10 if dist.get_rank(group) == 0 else 4
    batches = [(embeddings[i * size : (i + 1) * size], labels[i * size : (i + 1) * size]) for i in range(5)]
    bank = CentroidBank(7, 6, group=group)
    bank.fill(batches)
    loss, found = FATLoss(bank=bank), []
    for _ in range(3):
        for batch in batches:
            loss(*batch)
        found.append(bank.samples_served)
        bank.refresh()
    return found


def trained_by_ddp(group: Any) -> Tensor:
    """The centroids after an epoch under DistributedDataParallel, which broadcasts the buffers of rank 0."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    embeddings, labels = (values[rank::ranks][:16] for values in data())
    bank = CentroidBank(8, 6, group=group)
    bank.fill([data()])
    loss = torch.nn.parallel.DistributedDataParallel(HybridFATLoss(8, 6, bank=bank), process_group=group)
    for rows in torch.arange(16).split(4):
        loss(embeddings[rows], labels[rows]).backward()
    bank.refresh()
    return bank.centroids
