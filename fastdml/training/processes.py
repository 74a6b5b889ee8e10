"""The processes of a run: which device each has, what they exchange, and who has which part of a batch."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastdml.distributed.collectives import Parts, gathered
from fastdml.distributed.placement import share
from fastdml.training.config import ConfigError

_PATIENCE = timedelta(hours=3)  # others wait while the first process evaluates
_BUCKET = 1 << 24  # numbers that are exchanged at once


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        device: that this one computes on.
        rank: which it is; 0 writes the files.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes the files."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """``values`` of all processes added up, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def greatest(self, *numbers: float) -> list[float]:
        """Of each number the greatest over all processes; float64."""
        if self.count == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return bool(self.greatest(float(flag))[0])

    def share(self, count: int) -> range:
        """Which of so many parts are this process's: as many for each, in order, the first ones one more."""
        return share(count, self.count, self.rank)

    def gathered(self, rows: Tensor) -> Tensor:
        """Rows of all processes, in the order of the ranks; their numbers may differ."""
        if self.count == 1:
            return rows
        ones = Parts((1,) * self.count, self.rank, None)
        counts = gathered(torch.tensor([len(rows)], device=self.device), ones).tolist()
        return gathered(rows.to(self.device), Parts(tuple(counts), self.rank, None)).to(rows.device)

    @torch.no_grad()
    def take_from_first(self, module: nn.Module) -> None:
        """Give a module of every process what that of the first has: a foreign one may draw as it likes."""
        if self.count == 1:
            return
        for value in (*module.parameters(), *module.buffers()):
            sent = value.detach().contiguous()
            dist.broadcast(sent, 0)
            value.copy_(sent)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients over the processes; a parameter that none has a gradient of has none."""
        if self.count == 1:
            return
        learnt = [parameter for parameter in parameters if parameter.requires_grad]
        has = torch.tensor([float(one.grad is not None) for one in learnt], device=self.device)
        learnt = [one for one, any_has in zip(learnt, self.summed(has).tolist(), strict=True) if any_has]
        for bucket in _buckets(learnt):
            found = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
            flat = self.summed(torch.cat([gradient.reshape(-1) for gradient in found]))
            for one, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                one.grad = part.view_as(one).clone()


def join_processes(device: torch.device) -> Processes:
    """This process among those that torchrun or accelerate launch has started; alone without either.

    Args:
        device: that a process by itself uses; among several, "cpu" keeps all of them on the CPU and "cuda"
            gives each a GPU of its machine.

    Raises:
        ConfigError: several processes, and ``device`` names one GPU for all of them.
    """
    if not (dist.is_available() and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1)):
        return Processes(device)
    if device.index is not None:
        raise ConfigError(f"device must be auto, cpu or cuda with several processes, got {device}")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ConfigError("several processes need accelerate: pip install 'fastdml[train]'") from error
    state = PartialState(cpu=device.type == "cpu", timeout=_PATIENCE)
    return Processes(state.device, state.process_index, state.num_processes)


def leave_processes() -> None:
    """End the exchange between the processes, once nothing uses it; to be called before a program ends.

    A thread of the exchange that outlives the interpreter aborts the process, though all is done.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # modules in reference cycles may hold the group
        dist.destroy_process_group()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Parameters of one dtype, in order, at most ``_BUCKET`` numbers together unless one has more."""
    bucket: list[nn.Parameter] = []
    for one in parameters:
        full = bucket and sum(other.numel() for other in bucket) + one.numel() > _BUCKET
        if full or (bucket and one.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(one)
    if bucket:
        yield bucket
