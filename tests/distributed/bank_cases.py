"""What ranks do with a centroid bank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastdml.losses import CentroidBank, FATLoss


def data() -> tuple[Tensor, Tensor]:
    """Samples of all ranks."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(50, 6, generator=generator), torch.randint(7, (50,), generator=generator)


def streamed(group: Any, momentum: float | None) -> Tensor:
    """The centroids of this rank, which saw every other sample."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    embeddings, labels = (values[rank::ranks] for values in data())
    bank = CentroidBank(8, 6, momentum=momentum, group=group)
    bank.fill([(embeddings[:7], labels[:7]), (embeddings[7:], labels[7:])])
    return bank.centroids


def samples_served(group: Any) -> int:
    """How many samples of all ranks a bank has served after one batch of 10 on each."""
    bank = CentroidBank(7, 6, group=group)
    bank.fill([data()])
    FATLoss(bank=bank)(*(values[:10] for values in data()))
    return int(bank.clock[1])
