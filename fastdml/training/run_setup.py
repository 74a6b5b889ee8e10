"""The network, the loss and the surroundings of a run, from its settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

import fastdml
from fastdml.backends import BACKENDS
from fastdml.distributed import GlobalBatchLoss, shard_centers
from fastdml.losses import CrossBatchMemory, MultipleLosses
from fastdml.losses.centered import CenteredLoss
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.loss_work import LossWork
from fastdml.training.processes import Processes


def make_loss(config: TrainConfig, work: LossWork, device: torch.device) -> nn.Module:
    """The loss of a run with fresh parameters, in a memory of past batches where one is asked for."""
    loss = work.make(device)
    if not config.memory:
        return loss
    miner = None
    if isinstance(loss, MultipleLosses) and len(loss.losses) == 1:
        miner = next(iter(loss.miners.values()), None)
        (loss,) = loss.losses.values()
    return CrossBatchMemory(loss, config.embedding_dim, config.memory, miner).to(device)


def over_processes(loss: nn.Module, processes: Processes) -> nn.Module:
    """The loss of the batches of all processes; centres of classes are divided over them."""
    if processes.count == 1:
        return loss
    return shard_centers(loss) if isinstance(loss, CenteredLoss) else GlobalBatchLoss(loss)


@contextmanager
def chosen_backend(name: str | None) -> Iterator[None]:
    """The backend that was asked for; with None, what FASTDML_BACKEND says stays."""
    if name is not None and name not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    with nullcontext() if name is None else fastdml.use_backend(name):
        yield


def find_device(name: str) -> torch.device:
    """The device of that name; one that is not here raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not here: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device
