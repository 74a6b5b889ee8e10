"""A teacher that learns from its own confident samples, and what it then makes of all labels."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdml.errors import InputError
from fastdml.noise.checkpoint import TeacherProgress, fingerprint, read_progress, save_progress
from fastdml.noise.distilled import DistilledLabels
from fastdml.recipes import parameter_groups
from fastdml.soft_labels import SoftLabels

Images = Callable[[Tensor], Tensor]
AugmentInputs = Callable[[Tensor, torch.Generator], Tensor]


class NoConfidentSamplesError(InputError):
    """A teacher predicted too few given labels with the probability that is asked for."""


class DistillationInterruptedError(RuntimeError):
    """Distilling was stopped on request; the checkpoint, if there is one, holds the epochs that were done."""


@dataclass(frozen=True)
class TeacherEpoch:
    """An epoch that a teacher has finished.

    Attributes:
        round: from 0, that on all samples, to ``rounds``.
        rounds: rounds on the confident samples alone.
        epoch: from 1 to ``epochs``.
        epochs: of a round.
        samples: that it was trained on.
        cross_entropy: their mean, in nats, while it was trained.
        seconds: that the epoch took.
    """

    round: int
    rounds: int
    epoch: int
    epochs: int
    samples: int
    cross_entropy: float
    seconds: float


class LabelDistiller:
    """Label distillation of Yuan et al., "In Defense of the Triplet Loss Again", arXiv 1912.07863.

    A classifier is trained with cross-entropy on all samples for ``epochs``, then ``rounds`` times for
    ``epochs`` more on the samples whose given label it predicts with at least the probability ``threshold``.
    Its predictions, softened by ``temperature``, are the soft labels for a student.

    Probabilities are those of inputs without augmentation, with the teacher in evaluation mode. AdamW begins
    anew with every round, and its rate falls from ``learning_rate`` to nearly 0 along half a cosine. Every
    epoch draws its numbers from ``seed`` and its own number alone, global ones included, so that an
    interrupted teacher goes on as if nothing had happened.

    Args:
        teacher: maps inputs to logits [B, C]; trained in place, left in evaluation mode.
        num_classes: C.
        epochs: of a round; the paper's 5.
        rounds: on the confident samples; the paper does not give their number.
        threshold: from 0 on, at most 1; not given by the paper.
        temperature: divides the logits of the soft labels alone; not given by the paper.
        most: how many classes a soft label names.
        batch: samples a step, at most.
        learning_rate: at the start of each round.
        weight_decay: decoupled, on weight matrices alone.
        seed: of the order and the augmentation.
        device: where to train; None: where the teacher is.
        checkpoint: a file that is written after every epoch and, where it is there already, gone on from.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        teacher: nn.Module,
        num_classes: int,
        *,
        epochs: int = 5,
        rounds: int = 2,
        threshold: float = 0.5,
        temperature: float = 2.0,
        most: int = 5,
        batch: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
        device: torch.device | str | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        least = {"num_classes": 2, "epochs": 1, "rounds": 0, "most": 1, "batch": 1, "seed": 0}
        given = locals()
        for name, lowest in least.items():
            if given[name] < lowest:
                raise InputError(f"{name} must be at least {lowest}, got {given[name]!r}")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold must be a probability from 0 to 1, got {threshold!r}")
        for name in ("temperature", "learning_rate"):
            if not 0 < given[name] < math.inf:
                raise InputError(f"{name} must be above 0, got {given[name]!r}")
        self.device = next(teacher.parameters()).device if device is None else torch.device(device)
        self.teacher = teacher.to(self.device)
        self.num_classes, self.epochs, self.rounds = num_classes, epochs, rounds
        self.threshold, self.temperature, self.most = threshold, temperature, most
        self.batch, self.learning_rate, self.weight_decay = batch, learning_rate, weight_decay
        self.seed = seed
        self.checkpoint = None if checkpoint is None else Path(checkpoint)

    def distill(
        self,
        images: Images,
        labels: Tensor,
        *,
        augment: AugmentInputs | None = None,
        watcher: Callable[[TeacherEpoch], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> DistilledLabels:
        """Train the teacher and take its labels.

        A class none of whose samples is confident stays: see `DistilledLabels.classes_without_trust`.

        Args:
            images: gives the inputs of some samples, by rows int64 [n] on the CPU; they are moved to the
                teacher's device.
            labels: int64 [N], from 0 to C - 1.
            augment: perturbs a batch of inputs on the device, with numbers of the generator it is given.
            watcher: told of every epoch.
            stop: asked before every batch; True ends with DistillationInterruptedError.

        Raises:
            InputError: labels or logits of another shape, dtype or range, a cross-entropy that is not finite,
                or a checkpoint that other labels or settings made. ``temperature`` and ``most`` may differ:
                training does not depend on them.
            NoConfidentSamplesError: no sample reached the threshold after the last round, or fewer than two
                after another. The teacher is then as it was when the round began.
            DistillationInterruptedError: ``stop`` said so.
        """
        self._check_labels(labels)
        labels = labels.detach().cpu()
        settings = self._settings(labels, augment)
        optimizer = self._make_optimizer()
        progress = TeacherProgress(torch.arange(len(labels)))
        if self.checkpoint is not None and self.checkpoint.exists():
            progress = read_progress(self.checkpoint, self.teacher, optimizer, settings)
        work = _Work(images, labels, augment, stop)
        while True:
            while progress.epoch < self.epochs:
                begun = time.perf_counter()
                value = self._train_epoch(work, optimizer, progress)
                progress.epoch += 1
                if self.checkpoint is not None:
                    save_progress(self.checkpoint, progress, self.teacher, optimizer, settings)
                if watcher is not None:
                    seconds = time.perf_counter() - begun
                    watcher(self._report(progress, value, seconds))
            result = self._predict(work, progress)
            progress.trusted_by_round.append(result.trusted_by_round[-1])
            if progress.round == self.rounds:
                return result
            progress = TeacherProgress(
                torch.nonzero(result.trusted).squeeze(1),
                progress.round + 1,
                0,
                progress.trusted_by_round,
                copy.deepcopy(self.teacher.state_dict()),
            )
            optimizer = self._make_optimizer()

    def _train_epoch(self, work: _Work, optimizer: torch.optim.Optimizer, progress: TeacherProgress) -> float:
        """One epoch over the samples of the round; their mean cross-entropy."""
        number = progress.round * self.epochs + progress.epoch
        seed = self.seed * 1_000_003 + number
        generator = torch.Generator(self.device).manual_seed(seed)
        order = torch.randperm(len(progress.rows), generator=torch.Generator().manual_seed(seed))
        # Parts of equal size, to within one: a last batch of one sample has no batch statistics.
        batches = progress.rows[order].tensor_split(-(-len(order) // self.batch))
        total = torch.zeros((), device=self.device)
        self.teacher.train()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for position, rows in enumerate(batches):
                work.stop_if_asked()
                done = (progress.epoch * len(batches) + position) / (self.epochs * len(batches))
                for group in optimizer.param_groups:
                    group["lr"] = 0.5 * self.learning_rate * (1 + math.cos(math.pi * done))
                inputs = work.images(rows).to(self.device)
                if work.augment is not None:
                    inputs = work.augment(inputs, generator)
                value = F.cross_entropy(self._logits(inputs), work.labels[rows].to(self.device))
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                total += len(rows) * value.detach()
        mean = float(total) / len(order)
        if not math.isfinite(mean):
            raise InputError(
                f"learning_rate must let the teacher learn from finite inputs, got {self.learning_rate!r} "
                f"and a cross-entropy of {mean} in epoch {progress.epoch + 1} of round {progress.round}"
            )
        return mean

    @torch.no_grad()
    def _predict(self, work: _Work, progress: TeacherProgress) -> DistilledLabels:
        """What the teacher makes of all samples; raises NoConfidentSamplesError."""
        self.teacher.eval()
        soft, own, predicted = [], [], []
        for rows in torch.arange(len(work.labels)).split(self.batch):
            work.stop_if_asked()
            logits = self._logits(work.images(rows).to(self.device)).float()
            probabilities = logits.softmax(dim=1)
            given = work.labels[rows].to(self.device).unsqueeze(1)
            own.append(probabilities.gather(1, given).squeeze(1).cpu())
            predicted.append(probabilities.argmax(dim=1).cpu())
            soft.append(SoftLabels.of((logits / self.temperature).softmax(dim=1), self.most).to("cpu"))
        probability = torch.cat(own)
        trusted = probability >= self.threshold
        least = 1 if progress.round == self.rounds else 2  # to train on: one alone has no batch statistics
        if int(trusted.sum()) < least:
            if progress.before is not None:
                self.teacher.load_state_dict(progress.before)
            raise NoConfidentSamplesError(
                f"threshold must let at least {least} samples through, got {self.threshold!r}: after round "
                f"{progress.round} the most probable given label has {float(probability.max()):.3g}"
            )
        return DistilledLabels(
            SoftLabels(torch.cat([one.classes for one in soft]), torch.cat([one.shares for one in soft])),
            work.labels,
            probability,
            torch.cat(predicted),
            trusted,
            (*progress.trusted_by_round, int(trusted.sum())),
        )

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = self.teacher(inputs)
        if list(logits.shape) != [len(inputs), self.num_classes]:
            raise InputError(
                f"teacher must give logits [{len(inputs)}, {self.num_classes}], got {list(logits.shape)}"
            )
        return logits

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups = parameter_groups(self.teacher, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.AdamW(groups)

    def _settings(self, labels: Tensor, augment: AugmentInputs | None) -> dict[str, Any]:
        """All that training depends on, apart from the inputs."""
        names = (
            "num_classes",
            "epochs",
            "rounds",
            "threshold",
            "batch",
            "learning_rate",
            "weight_decay",
            "seed",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "augment": augment is not None,
            "labels": f"{len(labels)} of SHA-256 {fingerprint(labels)[:16]}",
        }

    def _report(self, progress: TeacherProgress, value: float, seconds: float) -> TeacherEpoch:
        return TeacherEpoch(
            progress.round, self.rounds, progress.epoch, self.epochs, len(progress.rows), value, seconds
        )

    def _check_labels(self, labels: Tensor) -> None:
        if labels.ndim != 1 or labels.dtype != torch.int64 or not len(labels):
            raise InputError(
                f"labels must be int64 [N] with N at least 1, got {labels.dtype} {list(labels.shape)}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(f"labels must lie in [0, {self.num_classes - 1}], got [{low}, {high}]")


@dataclass(frozen=True)
class _Work:
    """What a teacher is given."""

    images: Images
    labels: Tensor  # int64 [N]
    augment: AugmentInputs | None
    stop: Callable[[], bool] | None

    def stop_if_asked(self) -> None:
        if self.stop is not None and self.stop():
            raise DistillationInterruptedError("distilling the labels was stopped on request")
