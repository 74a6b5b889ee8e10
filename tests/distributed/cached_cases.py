"""Cached gradients on ranks whose network is in DistributedDataParallel, and in one process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastdml import CachedGradients
from fastdml.distributed import GlobalBatchLoss
from fastdml.losses import MarginLoss, MultipleLosses, MultiSimilarityLoss

ROWS, STEPS = 24, 3


def network() -> nn.Sequential:
    torch.manual_seed(4)
    middle = nn.BatchNorm1d(7), nn.Dropout(0.0)
    return nn.Sequential(nn.Linear(5, 7), *middle, nn.ReLU(), nn.Linear(7, 6)).double()


def make_loss() -> nn.Module:
    return MultipleLosses([MultiSimilarityLoss(epsilon=0.1), MarginLoss(learn_beta=True)])


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(5, (ROWS,), generator=generator)


def frozen(model: nn.Module) -> nn.Module:
    """With statistics that no batch changes, so that rows do not depend on their chunk."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    return model


def in_one_process() -> list[Tensor]:
    """Values, and parameters at the end."""
    model, loss = frozen(network()), make_loss()
    optimiser = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    values = []
    for step in range(STEPS):
        optimiser.zero_grad()
        inputs, labels = batch(step)
        value = loss(model(inputs), labels)
        value.backward()
        optimiser.step()
        values.append(value.detach())
    return [torch.stack(values), *(one.detach() for one in (*model.parameters(), *loss.parameters()))]


class _Exchanges:
    """Counts how often DistributedDataParallel exchanges gradients."""

    def __init__(self, model: DistributedDataParallel) -> None:
        self.count = 0
        model.register_comm_hook(None, self._hook)

    def _hook(self, state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        self.count += bucket.is_last()
        done = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
        return done.then(lambda future: future.value()[0])


def on_ranks(group: Any, sizes: tuple[int, ...], chunk: int) -> tuple[list[Tensor], int]:
    """The same by ranks with so many rows each; and how often gradients were exchanged."""
    rank = dist.get_rank(group)
    model = DistributedDataParallel(network(), process_group=group)
    frozen(model)
    exchanges = _Exchanges(model)
    loss = GlobalBatchLoss(make_loss(), group, data_parallel=True)
    cached = CachedGradients(model, chunk)
    optimiser = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    values = []
    for step in range(STEPS):
        optimiser.zero_grad()
        inputs, labels = (part.split(sizes)[rank] for part in batch(step))
        values.append(cached.backward(inputs, lambda found, labels=labels: loss(found, labels)))
        optimiser.step()
    learnt = [one.detach() for one in (*model.parameters(), *loss.parameters())]
    return [torch.stack(values), *learnt], exchanges.count
