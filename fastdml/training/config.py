"""What a training run is asked to do, in one frozen object that is written beside its results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fastdml.errors import InputError
from fastdml.noise import KINDS, NoiseKind


class ConfigError(InputError):
    """A setting of a run that cannot work; the message names it, what it was and what is accepted."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run.

    Attributes:
        data: name of a data set, see `fastdml.training.catalogue.DATASETS`.
        loss: name of a loss, see `fastdml.training.catalogue.LOSSES`.
        steps: optimiser steps; the learning-rate schedule is laid out over them.
        seconds: limit on the training time, evaluations included, in seconds; None for no limit. See
            `fastdml.training.schedule.StepBudget` for what it does to the schedule. A teacher is not counted.
        batch: images a step, a multiple of ``samples_per_class``.
        samples_per_class: images of each class in a batch, at least 2.
        embedding_dim: width of the embedding.
        network_width: channels of the network's first block.
        learning_rate: peak rate of AdamW.
        weight_decay: decoupled, on weight matrices only.
        warmup_steps: steps over which the rate rises linearly from 0.
        evaluations: how often Recall@K is measured during training, for the curve.
        augment: whether training images are perturbed.
        seed: of the initial weights, the batches and the augmentation.
        backend: name of a fastdml backend, or None for the best that can run.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<n>".
        noise: share of the training images that get a wrong label on purpose, from 0 to below 1.
        noise_kind: one of `fastdml.noise.KINDS`.
        distill: whether a teacher makes soft labels of the training labels first, see
            `fastdml.noise.LabelDistiller`; the loss must take them.
        teacher_epochs: of each of its rounds.
        teacher_rounds: on the images whose label it trusts, after the one on all images.
        trust: least probability of a given label that the teacher trusts.
        temperature: softens its predictions.
    """

    data: str = "glyphs"
    loss: str = "multi-similarity"
    steps: int = 500
    seconds: float | None = None
    batch: int = 128
    samples_per_class: int = 8
    embedding_dim: int = 64
    network_width: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 20
    evaluations: int = 6
    augment: bool = True
    seed: int = 0
    backend: str | None = None
    device: str = "auto"
    noise: float = 0.0
    noise_kind: NoiseKind = "wrong-id"
    distill: bool = False
    teacher_epochs: int = 5
    teacher_rounds: int = 2
    trust: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        _at_least("steps", self.steps, 1)
        _at_least("samples_per_class", self.samples_per_class, 2)
        _at_least("embedding_dim", self.embedding_dim, 1)
        _at_least("network_width", self.network_width, 1)
        _at_least("warmup_steps", self.warmup_steps, 0)
        _at_least("evaluations", self.evaluations, 0)
        _at_least("seed", self.seed, 0)
        _at_least("teacher_epochs", self.teacher_epochs, 1)
        _at_least("teacher_rounds", self.teacher_rounds, 0)
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"seconds must be None or above 0, got {self.seconds}")
        if self.batch < 2 * self.samples_per_class or self.batch % self.samples_per_class:
            raise ConfigError(
                f"batch must be a multiple of samples_per_class ({self.samples_per_class}) that holds at "
                f"least two classes, got {self.batch}"
            )
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.noise < 1:
            raise ConfigError(f"noise must be a share from 0 to below 1, got {self.noise}")
        if self.noise_kind not in KINDS:
            raise ConfigError(f"noise_kind must be one of {', '.join(KINDS)}, got {self.noise_kind!r}")
        if not 0 <= self.trust <= 1:
            raise ConfigError(f"trust must be a probability from 0 to 1, got {self.trust}")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")

    @property
    def classes_per_batch(self) -> int:
        """Classes in a batch."""
        return self.batch // self.samples_per_class

    def to_dict(self) -> dict[str, Any]:
        """All settings, ready for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, path: str | Path) -> TrainConfig:
        """The settings of a run from its config.json."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} must be the config.json of a run: {error}") from error
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"{path} has settings that do not exist: {', '.join(unknown)}")
        return cls(**values)


def _at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ConfigError(f"{name} must be at least {lowest}, got {value}")
