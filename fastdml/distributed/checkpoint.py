"""Sharded centres and their optimiser state as those of the whole loss, for any number of ranks.

A shard holds whole classes, of which each may have its own number of centres, so that it is no DTensor, whose
shards are equal pieces of a dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from fastdml.distributed.sharded_centers import ShardedCenters
from fastdml.errors import InputError


def full_state_dict(sharded: ShardedCenters, rank: int | None = 0) -> dict[str, Any]:
    """The ``state_dict`` of the whole loss, as pytorch-metric-learning's has it; every rank must call it.

    Args:
        sharded: the centres of the ranks.
        rank: the rank of the group that gets it; None: all.

    Returns:
        Tensors on the CPU; an empty dict on other ranks.
    """
    loss = sharded.loss
    state = {loss.parameter_name: _gathered(sharded, loss.centers.detach(), rank)}
    if loss.class_counts is not None:
        state["class_counts"] = sharded.placement.layout.counts.clone()
    return state if rank in (None, sharded.rank) else {}


def load_full_state_dict(sharded: ShardedCenters, state_dict: Mapping[str, Any]) -> None:
    """Takes this rank's centres out of the ``state_dict`` of the whole loss.

    Args:
        sharded: whose centres are set in place.
        state_dict: of a loss as it was before it was divided, or of :func:`full_state_dict` on any number of
            ranks. With ``torch.load(path, mmap=True)`` a rank reads little more than its part.

    Raises:
        InputError: it is of another loss, or of other sizes.
    """
    loss = sharded.loss
    expected = {loss.parameter_name} | ({"class_counts"} if loss.class_counts is not None else set())
    if set(state_dict) != expected:
        raise InputError(f"state_dict must have the keys {sorted(expected)}, got {sorted(state_dict)}")
    counts = state_dict.get("class_counts")
    if counts is not None and not torch.equal(counts.cpu(), sharded.placement.layout.counts):
        raise InputError(
            "class_counts of the state_dict must be those of the loss; load it before the loss is divided"
        )
    part = _own(sharded, loss.parameter_name, state_dict[loss.parameter_name])
    with torch.no_grad():
        loss.centers.copy_(part)


def full_optimizer_state_dict(
    sharded: ShardedCenters, optimizer: Optimizer, rank: int | None = 0
) -> dict[str, Any]:
    """The optimiser's ``state_dict`` as it would be with the whole loss; every rank must call it.

    Args:
        sharded: the centres of the ranks, which the optimiser updates. What it keeps of other parameters,
            such as those of a network that is the same on all ranks, is passed on as it is.
        optimizer: one that keeps of a parameter tensors of its shape and scalars, as Adam does.
        rank: the rank of the group that gets it; None: all.

    Returns:
        What was divided is on the CPU; an empty dict on other ranks.

    Raises:
        InputError: the optimiser does not have these centres, or keeps tensors of other shapes.
    """
    index, state = _index(sharded, optimizer), optimizer.state_dict()
    of_centers = dict(state["state"].get(index, {}))
    for name, value in sorted(of_centers.items()):
        if isinstance(value, Tensor) and value.ndim:
            if value.shape != sharded.centers.shape:
                raise InputError(
                    f"{name} of the optimizer must have the shape {list(sharded.centers.shape)} of the "
                    f"centres, got {list(value.shape)}"
                )
            of_centers[name] = _gathered(sharded, value, rank)
    if rank not in (None, sharded.rank):
        return {}
    return _with_state(state, index, of_centers)


def load_full_optimizer_state_dict(
    sharded: ShardedCenters, optimizer: Optimizer, state_dict: Mapping[str, Any]
) -> None:
    """Loads an optimiser with this rank's part of what is kept of the centres of the whole loss.

    Args:
        sharded: the centres of this rank, which the optimiser updates.
        optimizer: with the same groups of parameters as that which was saved.
        state_dict: of :func:`full_optimizer_state_dict` on any number of ranks, or of an optimiser of the
            whole loss.

    Raises:
        InputError: the optimiser does not have these centres, or the state is of other sizes.
    """
    index = _index(sharded, optimizer)
    of_centers = {
        name: _own(sharded, name, value) if isinstance(value, Tensor) and value.ndim else value
        for name, value in state_dict["state"].get(index, {}).items()
    }
    optimizer.load_state_dict(_with_state(state_dict, index, of_centers))


def _with_state(state_dict: Mapping[str, Any], index: int, of_centers: dict[str, Any]) -> dict[str, Any]:
    """The optimiser's state with another of one parameter."""
    state = dict(state_dict["state"])
    if of_centers:
        state[index] = of_centers
    return {**state_dict, "state": state}


def _index(sharded: ShardedCenters, optimizer: Optimizer) -> int:
    """What the optimiser's ``state_dict`` calls the centres."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        if parameter is sharded.centers:
            return index
    raise InputError("optimizer must update the centres of the loss, got one that does not")


def _whole_shape(sharded: ShardedCenters) -> list[int]:
    shape = [sharded.placement.layout.total, sharded.embedding_size]
    return shape[::-1] if sharded.loss.columns else shape


def _gathered(sharded: ShardedCenters, part: Tensor, keeper: int | None) -> Tensor | None:
    """The whole of a tensor laid out as the centres, on the CPU; None where it is not kept."""
    dim = int(sharded.loss.columns)
    kept = keeper in (None, sharded.rank)
    whole = torch.empty(_whole_shape(sharded), dtype=part.dtype) if kept else None
    for rank in range(sharded.ranks):  # one part at a time, so that a device never holds more than two
        positions = sharded.placement.centers(rank)
        shape = list(part.shape)
        shape[dim] = len(positions)
        sent = part.contiguous() if rank == sharded.rank else part.new_empty(shape)
        dist.broadcast(sent, group_src=rank, group=sharded.group)
        if whole is not None:
            whole.index_copy_(dim, positions, sent.cpu())
    return whole


def _own(sharded: ShardedCenters, name: str, whole: Tensor) -> Tensor:
    """This rank's part of a tensor laid out as all centres."""
    if list(whole.shape) != _whole_shape(sharded):
        raise InputError(
            f"{name} of the state_dict must have shape {_whole_shape(sharded)}, got {list(whole.shape)}"
        )
    positions = sharded.placement.centers(sharded.rank).to(whole.device)
    return whole.index_select(int(sharded.loss.columns), positions)
