"""A network that was trained, from the directory of its run or one of its checkpoints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fastdml.errors import InputError
from fastdml.training.backbones import NetworkPlan, rebuild
from fastdml.training.checkpoint import CheckpointError, load_weights, read_tensors
from fastdml.training.config import TrainConfig
from fastdml.training.run_checkpoints import FOLDER, WEIGHTS, RunCheckpoints

_CONFIG = "config.json"


@dataclass(frozen=True)
class Trained:
    """A trained network and what it was trained with.

    Attributes:
        config: settings of its run.
        model: the network on the CPU, in evaluation mode.
        step: how many steps it was trained; None where the file does not say.
        shape: what it takes: (C, H, W) of images in [0, 1], or (F,) of features.
        weights: the file that it came from.
    """

    config: TrainConfig
    model: nn.Module
    step: int | None
    shape: tuple[int, ...]
    weights: Path


def load_trained(path: str | Path, trust_code: bool = False) -> Trained:
    """Load the network of a run; its data set is not needed.

    Args:
        path: the directory of a run (its final weights, or the newest whole checkpoint of one that has none),
            a checkpoint in it, or the weights file in either.
        trust_code: whether a network by import path is made: that runs the code which the checkpoint names.

    Raises:
        CheckpointError: there is no run or checkpoint, or it is damaged, of another configuration, or its
            network cannot be made here.
        ConfigError: the run's config.json is damaged.
    """
    weights, settings = _files(Path(path))
    config = TrainConfig.read(settings)
    _, metadata = read_tensors(weights)
    try:
        plan = NetworkPlan.read(metadata)
        model = rebuild(metadata, trust_code)
        step = int(metadata["step"]) if "step" in metadata else None
    except (InputError, ValueError) as error:
        raise CheckpointError(f"{weights}: {error}") from error
    held, said = (plan.network, plan.embedding_dim), (config.network, config.embedding_dim)
    if held != said:
        raise CheckpointError(
            f"{weights} must be of the run of {settings}: its network and width are {held}, there {said}"
        )
    load_weights(weights, model)
    return Trained(config, model, step, plan.shape, weights)


def _files(path: Path) -> tuple[Path, Path]:
    """The weights and the settings that a path stands for."""
    folder = path.parent if path.name == WEIGHTS else path
    run = folder.parent.parent if folder.parent.name == FOLDER else folder
    if not (run / _CONFIG).is_file():
        held = "nothing is there" if not path.exists() else f"there is no {run / _CONFIG}"
        raise CheckpointError(f"{path} must be the directory of a run or a checkpoint in it, but {held}")
    if not (folder / WEIGHTS).is_file() and folder == run:
        stored = RunCheckpoints(run, writes=False, note=warnings.warn).newest()
        folder = stored.folder if stored is not None else folder
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} must hold {WEIGHTS}, but there is none: the run left no weights")
    return folder / WEIGHTS, run / _CONFIG
