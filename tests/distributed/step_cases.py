"""Single steps of a run over ranks where something happens on one of them alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdml import losses
from fastdml.distributed import GlobalBatchLoss
from fastdml.training.large_step import LargeStep, Piece
from fastdml.training.processes import Processes
from fastdml.training.views import Views

ROWS, CHUNK = 24, 4
LABELS = torch.arange(ROWS) // 4
FEATURES = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1))


class Limited(nn.Module):
    """A network that holds so many rows at once, with a graph or without."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5))
        self.most = most

    def forward(self, features: Tensor) -> Tensor:
        if len(features) > self.most:
            raise torch.OutOfMemoryError(f"{len(features)} rows are too many")
        found: Tensor = self.layers(features)
        return found


def steps(
    rank: int, ranks: int, most: int = ROWS, chunk: int = CHUNK, precision: str = "fp32", count: int = 3
) -> tuple[list[float], Tensor, list[str]]:
    """The losses of some steps, the network after them in one vector, and the notes."""
    torch.set_num_threads(1)
    model, notes = Limited(most), list[str]()
    loss: nn.Module = losses.MultiSimilarityLoss()
    loss = loss if ranks == 1 else GlobalBatchLoss(loss)
    processes = Processes(torch.device("cpu"), rank, ranks)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    make = LargeStep(
        model, loss, optimiser, processes, Views(), 0, precision, notes.append, lambda done, total: None
    )
    chunks = -(-ROWS // chunk)
    rows = [torch.arange(ROWS)[number::chunks] for number in range(chunks)]
    pieces = [Piece(n, rows[n], FEATURES[rows[n]], chunks) for n in processes.share(chunks)]

    def value_of(embeddings: Tensor, rows: Tensor) -> Tensor:
        value: Tensor = loss(embeddings, LABELS[rows])
        return value

    values = [make(step, pieces, value_of).loss for step in range(1, count + 1)]
    state = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    return values, state, notes


def over_ranks(
    group: Any, most: list[int], settings: dict[str, Any] | None = None
) -> tuple[list[float], Tensor, list[str]]:
    """`steps` by all ranks, each of which holds so many rows."""
    del group  # runs are of all ranks
    rank = torch.distributed.get_rank()
    return steps(rank, len(most), most[rank], **(settings or {}))


def networks_made_apart(group: Any) -> Tensor:
    """A network that every rank has made by numbers of its own, with what the first one has."""
    del group
    rank = torch.distributed.get_rank()
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    assert model[1].running_mean is not None
    model[1].running_mean.fill_(rank + 1)
    Processes(torch.device("cpu"), rank, torch.distributed.get_world_size()).take_from_first(model)
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])
