"""How the papers trained: parameter groups, optimisers and schedules for any training loop of torch.

A recipe is an optimiser, a schedule and the numbers that a loop needs beside them::

    loss = losses.SoftTripleLoss.preset("paper", num_classes=100, embedding_size=64)
    recipe = recipes.soft_triple(model, loss)
    for epoch in range(recipe.length):
        train_an_epoch(model, loss, recipe.optimizer)
        recipe.scheduler.step()
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from fastdml.errors import InputError
from fastdml.losses.centered import CenteredLoss

CENTERS = "centers"
"""Name of the parameter group that holds the centres of the losses."""


@dataclass(frozen=True)
class Recipe:
    """How a paper trained its network.

    Attributes:
        optimizer: over the network and what the loss learns.
        scheduler: ``scheduler.step()`` after every ``unit``.
        unit: "epoch" or "step".
        length: how many units the paper trained for.
        batch: images a step.
        samples_per_class: images of each class in a batch; None: drawn without regard to classes.
    """

    optimizer: Optimizer
    scheduler: LRScheduler
    unit: Literal["epoch", "step"]
    length: int
    batch: int
    samples_per_class: int | None


def parameter_groups(
    model: nn.Module,
    loss: nn.Module | None = None,
    *,
    lr: float,
    center_lr: float | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Parameters of a network and of its loss for any optimiser of torch, each with its own learning rate.

    Args:
        model: its weights, those of two dimensions and more, are decayed; its biases and norms are not.
        loss: what it learns; wrapped losses are found too. None: it learns nothing.
        lr: learning rate of the network, and of what a loss learns that is not a centre, such as the
            boundary of the margin loss, which is not decayed.
        center_lr: learning rate of the centres of classes; None is ``lr``. Centres start at random, and most
            losses read no more than their direction: they take a larger rate than a network does.
        weight_decay: of the weights. Centres are not decayed.

    Returns:
        Groups with "name", "params", "lr" and "weight_decay"; none is empty. That of the centres is called
        "centers".

    Raises:
        InputError: a rate or a decay that is not a number from 0 on.
    """
    center_lr = lr if center_lr is None else center_lr
    for name, value in {"lr": lr, "center_lr": center_lr, "weight_decay": weight_decay}.items():
        if not value >= 0:
            raise InputError(f"{name} must be a number from 0 on, got {value!r}")
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    centers, learnt = _of_loss(loss)
    groups: list[dict[str, Any]] = [
        {"name": "weights", "params": weights, "lr": lr, "weight_decay": weight_decay},
        {"name": "biases and norms", "params": others, "lr": lr, "weight_decay": 0.0},
        {"name": "loss", "params": learnt, "lr": lr, "weight_decay": 0.0},
        {"name": CENTERS, "params": centers, "lr": center_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def soft_triple(
    model: nn.Module,
    loss: nn.Module,
    *,
    lr: float = 1e-4,
    center_lr: float = 1e-2,
    weight_decay: float = 1e-4,
    epochs: int = 50,
) -> Recipe:
    """SoftTriple as its authors trained it on CUB-200-2011 and Cars196.

    Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019,
    arXiv 1909.05235, and their code: Adam with eps 0.01, weight decay on everything, centres included,
    batches of 32 images drawn at random, 50 epochs, all rates divided by 10 every 20. They began with an
    Inception network trained on ImageNet with its BatchNorm frozen (:func:`freeze_batch_norm`).

    Args:
        model: the network.
        loss: a loss with centres, :class:`fastdml.losses.SoftTripleLoss` with the preset "paper".
        lr: first learning rate of the network.
        center_lr: first learning rate of the centres.
        weight_decay: of all parameters.
        epochs: how long to train; the rates fall at the same epochs whatever it is.

    Raises:
        InputError: the loss has no centres, or a number is out of range.
    """
    if not _of_loss(loss)[0]:
        raise InputError(f"loss must have centres of classes, got {type(loss).__name__}")
    groups = parameter_groups(model, loss, lr=lr, center_lr=center_lr, weight_decay=weight_decay)
    optimizer = Adam(_all_decayed(groups, weight_decay), eps=0.01)
    scheduler = MultiStepLR(optimizer, range(20, epochs, 20))
    return Recipe(optimizer, scheduler, "epoch", epochs, batch=32, samples_per_class=None)


def multi_similarity(
    model: nn.Module,
    loss: nn.Module | None = None,
    *,
    lr: float = 3e-5,
    weight_decay: float = 5e-4,
    batch: int = 80,
    steps: int = 3000,
) -> Recipe:
    """Multi-Similarity as its authors trained it on CUB-200-2011.

    Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", CVPR 2019,
    arXiv 1904.06627, and their code: Adam, weight decay on everything, batches of 16 classes with 5 images
    each, the rate divided by 10 after 40 % and 80 % of the steps. On Stanford Online Products they took
    batches of 1000. They began with an Inception network trained on ImageNet with its BatchNorm frozen
    (:func:`freeze_batch_norm`).

    Args:
        model: the network.
        loss: what it learns is trained too; Multi-Similarity learns nothing.
        lr: first learning rate.
        weight_decay: of all parameters.
        batch: images a step, a multiple of 5.
        steps: how long to train.

    Raises:
        InputError: a number is out of range.
    """
    if batch < 10 or batch % 5:
        raise InputError(f"batch must be a multiple of 5 that holds at least two classes, got {batch!r}")
    groups = parameter_groups(model, loss, lr=lr, weight_decay=weight_decay)
    optimizer = Adam(_all_decayed(groups, weight_decay))
    scheduler = MultiStepLR(optimizer, [2 * steps // 5, 4 * steps // 5])
    return Recipe(optimizer, scheduler, "step", steps, batch, samples_per_class=5)


def freeze_batch_norm(model: nn.Module) -> nn.Module:
    """Makes every BatchNorm of a network keep its running statistics, after ``model.train()`` too.

    Small batches say little about the mean and the variance of a class-balanced draw, so both papers kept
    those of ImageNet. Scales and offsets go on being trained.

    Args:
        model: changed in place; copies and pickles of it stay frozen.

    Returns:
        The model.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = partial(_stay, module)  # type: ignore[assignment, method-assign]
    return model


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """What stands for ``module.train`` where it is frozen."""
    del mode
    return module


def _of_loss(loss: nn.Module | None) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The centres of a loss and of those inside it, and what else they learn."""
    if loss is None:
        return [], []
    centers = [part.centers for part in loss.modules() if isinstance(part, CenteredLoss)]
    known = {id(center) for center in centers}
    return centers, [parameter for parameter in loss.parameters() if id(parameter) not in known]


def _all_decayed(groups: list[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    return [{**group, "weight_decay": weight_decay} for group in groups]
