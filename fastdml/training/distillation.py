"""Noisy labels in a run: what is planted, what a teacher makes of the labels, and the files of both."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastdml.data import Split
from fastdml.noise import (
    CorruptedLabels,
    DistillationInterruptedError,
    DistilledLabels,
    LabelDistiller,
    TeacherEpoch,
    corrupt_split,
)
from fastdml.training.batches import class_indices
from fastdml.training.catalogue import LOSSES
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.progress import Display
from fastdml.training.stopping import StopRequest
from fastdml.training.views import Views

TEACHER = "teacher.pt"
"""What an interrupted teacher goes on from."""
SOFT_LABELS = "labels.safetensors"
"""`fastdml.noise.DistilledLabels` of the training images."""
NOISE = "noise.json"
"""`LabelFindings` in numbers."""


@dataclass(frozen=True, eq=False)
class LabelFindings:
    """What is known about the training labels of a run.

    Attributes:
        planted: noise that was planted, or None.
        distilled: what the teacher made of them; None: there was none, or it was interrupted.
    """

    planted: CorruptedLabels | None
    distilled: DistilledLabels | None

    @property
    def precision_and_recall(self) -> tuple[float, float] | None:
        """Of finding the planted noise; None where nothing was planted or nothing was looked for."""
        if self.planted is None or self.distilled is None:
            return None
        return self.distilled.precision_and_recall(self.planted.is_noisy)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what noise.json holds."""
        content: dict[str, Any] = {"planted": None, "distilled": None}
        if self.planted is not None:
            content["planted"] = self.planted.to_dict()
        found = self.distilled
        if found is not None:
            content["distilled"] = {
                "samples": len(found),
                "changed": int(found.changed.sum()),
                "distrusted": int((~found.trusted).sum()),
                "trusted_by_round": list(found.trusted_by_round),
                "classes_without_trust": len(found.classes_without_trust),
            }
        if self.precision_and_recall is not None:
            precision, recall = self.precision_and_recall
            content["distilled"] |= {"precision": precision, "recall": recall}
        return content


def plant(config: TrainConfig, train: Split) -> tuple[Split, CorruptedLabels | None]:
    """The training split with the noise that was asked for."""
    if not config.noise:
        return train, None
    return corrupt_split(train, config.noise_kind, config.noise, seed=config.seed)


def distill_labels(
    config: TrainConfig,
    teacher: nn.Module,
    train: Split,
    views: Views,
    folder: Path,
    display: Display,
    stop: StopRequest,
) -> tuple[DistilledLabels | None, float]:
    """Train a teacher, or go on with the one in the run's folder, and save what it makes of the labels.

    Its images are not perturbed: a few epochs are too few to learn a class from perturbed ones, and a label
    that is not learnt is not trusted.

    Returns:
        The labels, with classes counted from 0 without gaps, or None where ``stop`` came first; and the
        seconds that it took.

    Raises:
        NoConfidentSamplesError: as `fastdml.noise.LabelDistiller`.
    """
    begun = time.perf_counter()
    path = folder / TEACHER
    device = next(teacher.parameters()).device
    display.on_phase(
        f"Distilling {len(train)} labels: {config.teacher_epochs} epochs of a teacher on all images, then "
        f"{config.teacher_rounds} times as many on those whose label it trusts"
    )
    if path.exists():
        display.on_note(f"going on with the teacher in {path}")
    distiller = LabelDistiller(
        teacher,
        train.num_classes,
        epochs=config.teacher_epochs,
        rounds=config.teacher_rounds,
        threshold=config.trust,
        temperature=config.temperature,
        batch=config.batch,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
        checkpoint=path,
    )
    try:
        found = distiller.distill(
            lambda rows: views.of_test(train.images[rows], device),
            class_indices(train),
            watcher=lambda epoch: display.on_phase(epoch_text(epoch)),
            stop=lambda: stop.asked,
        )
    except DistillationInterruptedError:
        display.on_note("the teacher was interrupted: the same command with --resume goes on with it")
        return None, time.perf_counter() - begun
    found.save(folder / SOFT_LABELS)
    display.on_phase(
        f"The teacher distrusts {int((~found.trusted).sum())} of {len(found)} labels and predicts another "
        f"class for {int(found.changed.sum())}"
    )
    return found, time.perf_counter() - begun


def epoch_text(epoch: TeacherEpoch) -> str:
    """A line about an epoch of the teacher."""
    rounds = f"round {epoch.round} of {epoch.rounds}" if epoch.round else "all images"
    return (
        f"teacher, {rounds}, epoch {epoch.epoch}/{epoch.epochs}  {epoch.samples} images  "
        f"cross-entropy {epoch.cross_entropy:.3f}  {epoch.seconds:.1f} s"
    )


def check_takes_soft_labels(name: str, loss: nn.Module) -> None:
    """Raises ConfigError, with the losses that can, where a loss cannot be trained with soft labels."""
    if _takes_soft_labels(loss):
        return
    able = sorted(other for other, entry in LOSSES.items() if _takes_soft_labels(entry.make(2, 2)))
    raise ConfigError(
        f"loss must take soft labels to be trained with distill, as {', '.join(able) or 'none here'}, "
        f"got {name!r}"
    )


def remove_files(folder: Path) -> None:
    """Delete what an earlier run has left here about its labels."""
    for name in (TEACHER, SOFT_LABELS, NOISE):
        (folder / name).unlink(missing_ok=True)


def _takes_soft_labels(loss: nn.Module) -> bool:
    return bool(getattr(loss, "takes_soft_labels", False))
