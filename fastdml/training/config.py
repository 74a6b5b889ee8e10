"""What a training run is asked to do, in one frozen object that is written beside its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fastdml.noise import NoiseKind
from fastdml.training.config_checks import ConfigError, check, size_of

__all__ = ["ConfigError", "TrainConfig", "known_settings"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run.

    Attributes:
        data: name of a built-in data set, see `fastdml.training.catalogue.DATASETS`, or the path of one.
        layout: of the files at that path, a name of `fastdml.data.layouts.LAYOUTS`, or "auto".
        image_size: side of the images that the network is given, "224" or height and width as "256x128";
            None: 224 for files; images that are stored in memory have their own.
        fit: "crop" cuts the middle of an image out to fit the size, "stretch" keeps all of it.
        on_unreadable: whether an image that cannot be read or is missing stops the run ("stop") or is left
            out and reported ("skip").
        workers: processes that read images; None: one less than there are cores, at most 8. Images that are
            stored in memory need none.
        loss: name of a loss, see `fastdml.training.catalogue.LOSSES`.
        loss_options: arguments of the loss that differ from the catalogue's.
        memory: embeddings of past batches that a pair loss compares with too, see
            :class:`fastdml.losses.CrossBatchMemory`; 0: none.
        steps: optimiser steps; the learning-rate schedule is laid out over them.
        seconds: limit on the training time, evaluations included, in seconds; None for no limit. See
            `fastdml.training.schedule.StepBudget` for what it does to the schedule. A teacher is not counted.
        batch: images a step, over all processes; a multiple of ``samples_per_class``.
        chunk: images that go through the network at once; None: all that this process has of a batch. With
            more than one chunk gradients are cached, see :class:`fastdml.CachedGradients`.
        samples_per_class: images of each class in a batch, at least 2.
        repeat_images: whether classes with fewer images than that repeat them, each as often as the others up
            to one; else they are an error.
        categories_per_batch: super-classes that the classes of a batch are taken from; 0: drawn without
            regard to them.
        network: "small", "head" (of features that are there already), "efficientnet-lite0", "timm:<name>", or
            "<module>:<name>" of any class or function that makes a module.
        network_options: arguments for making it.
        weights: safetensors file that the network starts from; None: as it is made.
        freeze: "nothing", "batch-norm" (its statistics stay), or "backbone" (only the last layer learns).
        embedding_dim: width of the embedding.
        network_width: channels of the small network's first block.
        optimiser: "adamw", "adam" or "sgd" (momentum 0.9).
        learning_rate: its peak.
        head_rate: learning rate of the embedding layer on a backbone, over that of the backbone.
        center_rate: learning rate of the loss's centres, over that of the network; None: the catalogue's.
        weight_decay: on weight matrices only; decoupled in AdamW.
        schedule: "cosine", "constant", or "step": the rate is multiplied by ``decay_factor`` every
            ``decay_every`` steps.
        decay_every: see ``schedule``.
        decay_factor: see ``schedule``.
        warmup_steps: steps over which the rate rises linearly from 0.
        precision: "fp32", or "bf16" or "fp16" under autocast.
        evaluations: how often Recall@K is measured during training, for the curve.
        augment: whether training images are perturbed.
        seed: of the initial weights, the batches and the augmentation.
        backend: name of a fastdml backend, or None for the best that can run.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<n>".
        checkpoint_every: steps from one checkpoint to the next; 0: only where the run is interrupted.
        tensorboard: whether curves are written for TensorBoard too.
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
    layout: str = "auto"
    image_size: str | None = None
    fit: str = "crop"
    on_unreadable: str = "stop"
    workers: int | None = None
    loss: str = "multi-similarity"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 0
    steps: int = 500
    seconds: float | None = None
    batch: int = 128
    chunk: int | None = None
    samples_per_class: int = 8
    repeat_images: bool = False
    categories_per_batch: int = 0
    network: str = "small"
    network_options: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    freeze: str = "nothing"
    embedding_dim: int = 64
    network_width: int = 32
    optimiser: str = "adamw"
    learning_rate: float = 5e-3
    head_rate: float = 1.0
    center_rate: float | None = None
    weight_decay: float = 0.05
    schedule: str = "cosine"
    decay_every: int = 1000
    decay_factor: float = 0.1
    warmup_steps: int = 20
    precision: str = "fp32"
    evaluations: int = 6
    augment: bool = True
    seed: int = 0
    backend: str | None = None
    device: str = "auto"
    checkpoint_every: int = 200
    tensorboard: bool = False
    noise: float = 0.0
    noise_kind: NoiseKind = "wrong-id"
    distill: bool = False
    teacher_epochs: int = 5
    teacher_rounds: int = 2
    trust: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check(self)

    @property
    def classes_per_batch(self) -> int:
        """Classes in a batch."""
        return self.batch // self.samples_per_class

    @property
    def pixels(self) -> tuple[int, int] | None:
        """``image_size`` as (height, width); None: not set."""
        return None if self.image_size is None else size_of(self.image_size)

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
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must be the config.json of a run, got {type(values).__name__}")
        return cls(**known_settings(values, str(path)))


def known_settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings, if all exist; raises ConfigError with the nearest names of those that do not."""
    names = [setting.name for setting in fields(TrainConfig)]
    wrong = []
    for name in values:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            wrong.append(f"{name!r}" + (f" (near it: {near[0]})" if near else ""))
    if wrong:
        raise ConfigError(f"{where} has settings that do not exist: {', '.join(wrong)}")
    return dict(values)
