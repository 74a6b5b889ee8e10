"""Training with sharded centres, as the ranks run it and as one process does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from sharded_cases import WIDTH, Problem
from torch import Tensor, nn

from fastdml.distributed import (
    ShardedCenters,
    full_optimizer_state_dict,
    full_state_dict,
    load_full_optimizer_state_dict,
    load_full_state_dict,
    shard_centers,
)
from fastdml.errors import InputError

INPUTS = 5


class Trained(NamedTuple):
    """After some steps."""

    values: Tensor
    network: Tensor
    centers: Tensor


def network() -> nn.Module:
    torch.manual_seed(8)
    return nn.Linear(INPUTS, WIDTH).double()


def optimiser_of(model: nn.Module, centers: nn.Parameter) -> torch.optim.Optimizer:
    groups = [{"params": model.parameters()}, {"params": [centers], "lr": 0.1, "weight_decay": 0.1}]
    return torch.optim.AdamW(groups, lr=0.03, amsgrad=True)


def step_batch(step: int, ranks: int) -> list[tuple[Tensor, Tensor]]:
    """The batches of the ranks of one step: one global batch, however many ranks there are."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(9, INPUTS, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (9,), generator=generator)
    sizes = {1: [9], 2: [6, 3], 4: [4, 0, 3, 2]}[ranks]
    return list(zip(inputs.split(sizes), labels.split(sizes), strict=True))


def trained(
    loss: Callable[..., Tensor], model: nn.Module, optimiser: Any, steps: range, rank: int, ranks: int
) -> Tensor:
    """The values of the loss."""
    values = []
    for step in steps:
        inputs, labels = step_batch(step, ranks)[rank]
        optimiser.zero_grad()
        value = loss(model(inputs), labels)
        value.backward()
        optimiser.step()
        values.append(value.detach())
    return torch.stack(values)


def in_one_process(name: str, steps: range) -> Trained:
    loss, model = Problem(name, 7, ()).loss(), network()
    values = trained(loss, model, optimiser_of(model, loss.centers), steps, 0, 1)
    return Trained(values, model.weight.detach(), loss.centers.detach())  # type: ignore[arg-type]


def on_ranks(
    group: Any, name: str, steps: range, start: str | None = None, end: str | None = None
) -> Trained:
    """Trains from the checkpoint ``start``, writes one to ``end``."""
    sharded = shard_centers(Problem(name, 7, ()).loss(), group, data_parallel=True)
    model = nn.parallel.DistributedDataParallel(network(), process_group=group)
    optimiser = optimiser_of(model, sharded.centers)
    if start is not None:
        saved = torch.load(start, mmap=True)
        model.module.load_state_dict(saved["network"])
        load_full_state_dict(sharded, saved["loss"])
        load_full_optimizer_state_dict(sharded, optimiser, saved["optimizer"])
    values = trained(sharded, model, optimiser, steps, sharded.rank, sharded.ranks)
    saved = {
        "network": model.module.state_dict(),
        "loss": full_state_dict(sharded),
        "optimizer": full_optimizer_state_dict(sharded, optimiser),
    }
    if sharded.rank == 0 and end is not None:
        torch.save(saved, end)
    centers = full_state_dict(sharded, rank=None)[sharded.loss.parameter_name]
    return Trained(values, model.module.weight.detach(), centers)


def state_before_the_first_step(group: Any) -> dict[str, Any]:
    """A fresh optimiser's state, there and back."""
    sharded = shard_centers(Problem("arcface", 3, ()).loss(), group)
    optimiser = optimiser_of(network(), sharded.centers)
    full = full_optimizer_state_dict(sharded, optimiser, rank=None)
    load_full_optimizer_state_dict(sharded, optimiser, full)
    return full


class Sizes(NamedTuple):
    """Numbers that a rank holds."""

    centers: int
    gradient: int
    moments: list[int]


def held(group: Any, classes: int, per_class: int) -> Sizes:
    problem = Problem("soft-triple", classes, (4,) * dist.get_world_size(group))
    sharded = shard_centers(problem.loss(), group)
    optimiser = torch.optim.Adam([sharded.centers])
    embeddings, labels, _ = problem.batches()[sharded.rank]
    sharded(embeddings.requires_grad_(), labels).backward()
    optimiser.step()
    state = optimiser.state[sharded.centers]
    assert sharded.centers.grad is not None
    assert sharded.centers.untyped_storage().nbytes() == sharded.centers.numel() * 8
    return Sizes(
        sharded.centers.numel(),
        sharded.centers.grad.numel(),
        [state[name].numel() for name in ("exp_avg", "exp_avg_sq")],
    )


def data_parallel_gradient(group: Any, name: str) -> Tensor:
    """Of a network whose gradients DistributedDataParallel averages."""
    sharded = shard_centers(Problem(name, 7, ()).loss(), group, data_parallel=True)
    model = nn.parallel.DistributedDataParallel(network(), process_group=group)
    inputs, labels = step_batch(0, sharded.ranks)[sharded.rank]
    sharded(model(inputs), labels).backward()
    assert model.module.weight.grad is not None
    return model.module.weight.grad


def _refused(function: Callable[..., Any], *arguments: Any) -> str:
    try:
        function(*arguments)
    except InputError as error:
        return str(error)
    return "no error"


def refused_states(group: Any) -> dict[str, str]:
    """The messages of the errors of states that do not fit."""
    problem = Problem("soft-triple", 7, ())
    sharded, other = shard_centers(problem.loss(), group), problem._replace(classes=8).loss()
    ragged = Problem("soft-triple, each class its own number", 7, ()).loss()
    optimiser = optimiser_of(network(), sharded.centers)
    of_other = torch.optim.Adam([other.centers])
    other.centers.sum().backward()
    of_other.step()
    moments = {"state": {2: of_other.state_dict()["state"][0]}, "param_groups": []}
    of_other_rank = {**sharded.state_dict(), "_extra_state": {"rank": 1 - sharded.rank, "ranks": 2}}
    fewer = ragged.state_dict()
    fewer["class_counts"] = fewer["class_counts"].flip(0)
    return {
        "size": _refused(load_full_state_dict, sharded, other.state_dict()),
        "name": _refused(load_full_state_dict, sharded, {"W": torch.zeros(3)}),
        "counts": _refused(load_full_state_dict, shard_centers(ragged, group), fewer),
        "moments": _refused(load_full_optimizer_state_dict, sharded, optimiser, moments),
        "optimiser": _refused(full_optimizer_state_dict, sharded, of_other),
        "factored": _refused(_factored_state, sharded),
        "rank": _refused(sharded.load_state_dict, of_other_rank),
    }


def _factored_state(sharded: ShardedCenters) -> None:
    optimiser = torch.optim.Adafactor([sharded.centers])
    sharded.centers.sum().backward()
    optimiser.step()
    full_optimizer_state_dict(sharded, optimiser)


def own_state(group: Any, folder: str) -> bool:
    """A rank's own state_dict, there and back by file."""
    sharded = shard_centers(Problem("soft-triple", 7, ()).loss(), group)
    path = Path(folder) / f"own-{sharded.rank}.pt"
    torch.save(sharded.state_dict(), path)
    wanted = sharded.centers.detach().clone()
    with torch.no_grad():
        sharded.centers.zero_()
    sharded.load_state_dict(torch.load(path))
    return torch.equal(sharded.centers, wanted)


def run_document(group: Any, code: list[str], path: str) -> list[Tensor]:
    """The centres of all ranks before and after the second part of docs/sharded-centers.md."""
    names: dict[str, Any] = {
        "network": nn.Linear(INPUTS, WIDTH),
        "num_classes": 7,
        "embedding_size": WIDTH,
        "device": "cpu",
        "batches": [(torch.randn(4, INPUTS), torch.randint(7, (4,))) for _ in range(3)],
        "path": path,
    }
    exec(code[0], names)
    with torch.no_grad():
        before = names["loss"].centers.clone()
    exec(code[1], names)
    return [before, names["loss"].centers.detach()]
