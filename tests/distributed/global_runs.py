"""Several steps of a global batch, and what a rank computes in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from global_cases import (
    WIDTH,
    Found,
    Norms,
    boundaries,
    differentiated,
    loss_named,
    own,
    samples,
    squares_of_losses,
    tensors_of,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastdml
from fastdml import losses, miners
from fastdml.distributed import GlobalBatchLoss

MEMORIES: dict[str, Callable[[], nn.Module]] = {
    "contrastive": lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), WIDTH, 40),
    "mined": lambda: losses.CrossBatchMemory(
        losses.MultiSimilarityLoss(), WIDTH, 40, miners.MultiSimilarityMiner(0.1)
    ),
    "mined one by one": lambda: losses.CrossBatchMemory(
        losses.TripletMarginLoss(), WIDTH, 40, miners.BatchHardMiner()
    ),
    "lifted": lambda: losses.CrossBatchMemory(losses.LiftedStructureLoss(), WIDTH, 40),
    "boundaries": lambda: losses.CrossBatchMemory(
        boundaries(nu=0.1, embedding_regularizer=Norms()), WIDTH, 40
    ),
    "single losses": lambda: losses.CrossBatchMemory(losses.SupConLoss(reducer=squares_of_losses), WIDTH, 40),
}


def remembered(loss: nn.Module, cut: Callable[[Any], Any]) -> list[Found]:
    """Five batches, the ring full after the third."""
    loss.double()
    return [differentiated(loss, cut(x), cut(y)) for x, y in (samples(seed=seed) for seed in range(5))]


def remembered_on_ranks(group: Any, name: str, sizes: tuple[int, ...]) -> tuple[list[Found], Tensor]:
    loss = GlobalBatchLoss(MEMORIES[name](), group)
    found = remembered(loss, lambda values: own(group, sizes, values))
    return found, loss.loss.embedding_memory


class Trained(NamedTuple):
    values: Tensor
    parameters: list[Tensor]


def network() -> nn.Module:
    torch.manual_seed(8)
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, WIDTH))


def trained_loss(name: str) -> nn.Module:
    return MEMORIES["mined"]() if name == "memory" else loss_named(name)


def trained(
    model: nn.Module, loss: nn.Module, learnt: list[nn.Parameter], cut: Callable[[Any], Any]
) -> Trained:
    """After 20 steps."""
    optimiser, values = torch.optim.SGD(learnt, lr=0.05, momentum=0.5), []
    for step in range(20):
        inputs, labels = samples(torch.float32, step)
        optimiser.zero_grad()
        value = loss(model(cut(inputs)), cut(labels))
        value.backward()
        optimiser.step()
        values.append(value.detach())
    return Trained(torch.stack(values), [parameter.detach().clone() for parameter in learnt])


def trained_in_one_process(name: str) -> Trained:
    model, loss = network(), trained_loss(name)
    return trained(model, loss, [*model.parameters(), *loss.parameters()], lambda values: values)


def trained_on_ranks(group: Any, name: str, sizes: tuple[int, ...]) -> Trained:
    model = nn.parallel.DistributedDataParallel(network(), process_group=group)
    loss = GlobalBatchLoss(trained_loss(name), group, data_parallel=True)
    learnt = [*model.parameters(), *loss.parameters()]
    return trained(model, loss, learnt, lambda values: own(group, sizes, values))


class Largest(TorchDispatchMode):
    """The most elements of anything that is made, and the rows that the pair operators are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.calls = 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tensors_of(result):
            self.elements = max(self.elements, one.numel())
        if "pair_forward" in str(func):
            self.calls.append(tuple(len(args[at]) if args[at] is not None else 0 for at in (0, 2)))
        return result


class Work(NamedTuple):
    elements: int
    calls: list[tuple[int, int]]


def work(loss: nn.Module, embeddings: Tensor, labels: Tensor, backend: str) -> Work:
    with fastdml.use_backend(backend), Largest() as largest:
        differentiated(loss, embeddings, labels)
    return Work(largest.elements, largest.calls)


def crowd() -> tuple[Tensor, Tensor]:
    embeddings = torch.randn(192, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return embeddings, torch.arange(192) % 48


def work_on_ranks(group: Any, name: str, sizes: tuple[int, ...], backend: str) -> Work:
    embeddings, labels = (own(group, sizes, values) for values in crowd())
    return work(GlobalBatchLoss(loss_named(name), group), embeddings, labels, backend)


def run_document(group: Any, code: list[str]) -> Tensor:
    """The network after the program of docs/many-ranks.md."""
    names: dict[str, Any] = {
        "network": network(),
        "device": "cpu",
        "batches": [[own(group, (5, 2, 3, 7), x) for x in samples(torch.float32, step)] for step in range(3)],
    }
    exec(code[0], names)
    return names["network"].module[0].weight.detach()
