"""The optimiser of a run: which parameters learn at which rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastdml.recipes import parameter_groups
from fastdml.training.backbones import head_parameters
from fastdml.training.catalogue import find_loss
from fastdml.training.config import TrainConfig


def make_optimiser(model: nn.Module, loss: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """An optimiser with the peak rates of a run: a head and the centres of a loss have their own."""
    rate = config.learning_rate
    center_rate = find_loss(config.loss).center_rate if config.center_rate is None else config.center_rate
    groups = parameter_groups(
        model,
        loss,
        lr=rate,
        center_lr=None if center_rate is None else rate * center_rate,
        weight_decay=config.weight_decay,
    )
    if config.head_rate != 1:
        groups = _with_head(groups, {id(one) for one in head_parameters(model)}, config.head_rate)
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimiser](groups)


def _with_head(groups: list[dict[str, Any]], head: set[int], factor: float) -> list[dict[str, Any]]:
    """Groups of which those of the head have rates of their own."""
    found = []
    for group in groups:
        of_head = [one for one in group["params"] if id(one) in head]
        others = [one for one in group["params"] if id(one) not in head]
        if others:
            found.append({**group, "params": others})
        if of_head:
            named = f"{group['name']} of the head"
            found.append({**group, "name": named, "params": of_head, "lr": factor * group["lr"]})
    return found
