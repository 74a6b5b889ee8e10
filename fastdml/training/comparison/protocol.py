"""What all cells of a comparison have in common, and how two protocols are told apart."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import fastdml
from fastdml.training.catalogue import find_loss
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.environment import describe

_COMPARED = ("settings", "device", "versions")  # of the header; the rest is told, not compared
_PACKAGES = ("faiss-cpu", "scikit-learn")  # NMI comes from them


@dataclass(frozen=True)
class Protocol:
    """Settings that every loss of a comparison is trained and measured with.

    The loss, its number of samples a class and the rate of its centres come from the catalogue; the other
    settings mean what they mean in `TrainConfig`.

    Attributes:
        evaluations: how often Recall@1 is measured on the validation classes, the last step included.
        validation_share: share of the training classes that is held out, drawn by the cell's seed.
        kmeans_seed: of the k-means behind NMI.

    Raises:
        ConfigError: a setting that cannot work.
    """

    data: str = TrainConfig.data
    steps: int = 300
    batch: int = TrainConfig.batch
    embedding_dim: int = TrainConfig.embedding_dim
    network_width: int = TrainConfig.network_width
    learning_rate: float = TrainConfig.learning_rate
    weight_decay: float = TrainConfig.weight_decay
    warmup_steps: int = TrainConfig.warmup_steps
    evaluations: int = TrainConfig.evaluations
    augment: bool = TrainConfig.augment
    validation_share: float = 0.2
    kmeans_seed: int = 0
    backend: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ConfigError(f"validation_share must lie between 0 and 1, got {self.validation_share}")
        if self.evaluations < 1:
            raise ConfigError(f"evaluations must be at least 1, got {self.evaluations}")

    def config(self, loss: str, seed: int) -> TrainConfig:
        """The settings of one cell; an unknown loss, or a setting that it cannot have, raises ConfigError."""
        return TrainConfig(
            data=self.data,
            loss=loss,
            steps=self.steps,
            batch=self.batch,
            samples_per_class=find_loss(loss).samples_per_class,
            embedding_dim=self.embedding_dim,
            network_width=self.network_width,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            evaluations=self.evaluations,
            augment=self.augment,
            seed=seed,
            backend=self.backend,
            device=self.device,
        )

    def header(self, device: torch.device, classes: Mapping[str, int]) -> dict[str, Any]:
        """What protocol.json holds: settings, device, versions, machine, and the classes of each part."""
        settings = asdict(self)
        del settings["device"]  # "auto" and "cpu" may be the same: what counts is the device itself
        here = describe(device, "", "")
        return {
            "settings": settings,
            "device": here.device,
            "versions": {
                "fastdml": here.fastdml,
                "torch": here.torch,
                **{name: _version(name) for name in _PACKAGES},
            },
            "machine": {
                "python": here.python,
                "system": here.system,
                "processor": here.processor,
                "cores": here.cores,
                "threads": here.threads,
            },
            "classes": dict(classes),
        }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What tells two headers apart, one line each: ``steps was 300, is 400``."""
    before, now = _flat(found), _flat(wanted)
    names = [*now, *(name for name in before if name not in now)]
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def commit() -> str | None:
    """The commit that this package's checkout is at, with a + where files differ; None outside of one.

    FASTDML_COMMIT says it where no repository travels along.
    """
    given = os.environ.get("FASTDML_COMMIT")
    root = Path(fastdml.__file__).resolve().parents[1]
    if given or not (root / ".git").exists():
        return given or None
    try:
        found = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "fastdml", "triton_kernels", "csrc")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{found}+" if changed else found


def _flat(header: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name in _COMPARED:
        value = header.get(name)
        parts |= value if isinstance(value, dict) else {name: value}
    return parts


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()
