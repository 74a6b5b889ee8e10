"""The training loop: batches, steps, the log, checkpoints, and the ways in which it ends."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdml.data import Split
from fastdml.data.images import UnreadableImageError
from fastdml.data.loading import Loaded, WorkerError, load_chunks
from fastdml.noise import DistilledLabels
from fastdml.training.batches import BatchChunks, class_indices, make_sampler, worker_count
from fastdml.training.checkpoint import save_tensors
from fastdml.training.config import TrainConfig
from fastdml.training.large_step import LargeStep, NonFiniteBatchError, Piece
from fastdml.training.memory_use import memory_by_part, peak_memory
from fastdml.training.optimisers import make_optimiser
from fastdml.training.processes import Processes
from fastdml.training.records import FitOutcome, NonFiniteLossError, StepLog, StepRecord, StepWatcher
from fastdml.training.run_checkpoints import Parts, RunCheckpoints, Stored
from fastdml.training.schedule import RateSchedule, StepBudget
from fastdml.training.stopping import StopRequest
from fastdml.training.views import Views, make_views

_EVALUATION_SHARE = 0.2  # of a time limit, at most, goes into evaluations during training


@dataclass(frozen=True)
class Surroundings:
    """What a training runs in, beside its network and data.

    Attributes:
        processes: those of the run; None: this one alone, on the device of the network.
        views: what the network is shown of images; None: by the settings.
        checkpoints: where they are written; None: nowhere.
        resumed: what training goes on from; None: from the start.
        extra: what else a checkpoint holds of the run, plain data.
        description: of the network, for its weights.
        resident: bytes of memory that were in use before; 0 where they are not known.
    """

    processes: Processes | None = None
    views: Views | None = None
    checkpoints: RunCheckpoints | None = None
    resumed: Stored | None = None
    extra: Callable[[], Mapping[str, Any]] = dict
    description: Mapping[str, str] = field(default_factory=dict)
    resident: int = 0


def fit(
    model: nn.Module,
    loss: nn.Module,
    split: Split,
    config: TrainConfig,
    run: StepLog,
    watcher: StepWatcher,
    stop: StopRequest,
    evaluate_now: Callable[[int], object],
    evaluation_seconds: float = 0.0,
    distilled: DistilledLabels | None = None,
    surroundings: Surroundings | None = None,
) -> FitOutcome:
    """Train ``model`` in place, and with it what the loss learns.

    Args:
        split: the training images. The loss is given their classes, counted from 0 without gaps.
        run: gets a line a step.
        stop: asked between steps.
        evaluate_now: called with the step number, ``config.evaluations - 1`` times at even distances; the
            last evaluation, after training, is the caller's.
        evaluation_seconds: what one such call takes, for keeping a time limit.
        distilled: of these images and classes. The loss is then given their soft labels, with a confidence of
            1 where the given label is trusted and 0 elsewhere. Batches are drawn by the classes that the
            teacher predicts, so that the centroid of an image's class is there.
        surroundings: processes, checkpoints and the like.

    Raises:
        NonFiniteLossError: after the batch was saved.
        UnreadableImageError: an image cannot be read, and is not to be skipped; after a checkpoint, as with
            the next.
        WorkerError: a process that reads images was killed.
    """
    around = surroundings or Surroundings()
    processes = around.processes or Processes(next(model.parameters()).device)
    optimiser = make_optimiser(model, loss, config)
    views = around.views or make_views(config, split)
    make = LargeStep(
        model, loss, optimiser, processes, views, config.seed, config.precision,
        watcher.on_note, watcher.on_chunk,
    )  # fmt: skip
    training = _Training(config, run, watcher, stop, evaluate_now, around, processes, make)
    training.parts = Parts(model, _stored(loss), optimiser, make.scaler, around.description)
    training.plan(evaluation_seconds)
    model.train()
    return training.go(split, _Labels(class_indices(split), distilled, loss, processes.device))


@dataclass
class _Labels:
    """What the loss is told about the images of a split."""

    classes: Tensor
    distilled: DistilledLabels | None
    loss: nn.Module
    device: torch.device

    def value(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """The loss of embeddings [B, D] of these rows."""
        if self.distilled is None:
            value: Tensor = self.loss(embeddings, self.classes[rows].to(self.device))
            return value
        trusted = self.distilled.trusted[rows].to(self.device, torch.float32)
        soft: Tensor = self.loss(embeddings, self.distilled.soft[rows].to(self.device), confidence=trusted)
        return soft


@dataclass
class _Training:
    """A training on its way."""

    config: TrainConfig
    run: StepLog
    watcher: StepWatcher
    stop: StopRequest
    evaluate_now: Callable[[int], object]
    around: Surroundings
    processes: Processes
    make: LargeStep
    parts: Parts = field(init=False)
    budget: StepBudget = field(init=False)
    step: int = 0
    before: float = 0.0  # seconds of the sessions before
    evaluations_left: int = 0
    evaluation_seconds: float = 0.0
    evaluated: int = 0  # the step of the last evaluation
    interrupted: bool = False

    def plan(self, evaluation_seconds: float) -> None:
        """Lay the run out, or go on with what a checkpoint holds."""
        config = self.config
        self.budget = StepBudget(config.steps, config.seconds)
        self.evaluation_seconds = evaluation_seconds
        self.evaluations_left = _affordable(config.evaluations - 1, evaluation_seconds, config.seconds)
        self.peaks = [group["lr"] for group in self.parts.optimiser.param_groups]
        resumed = self.around.resumed
        if resumed is not None:
            resumed.restore(self.parts)
            loop = resumed.progress["loop"]
            self.step, self.before = resumed.step, float(loop["seconds"])
            self.evaluated, self.evaluation_seconds = loop["evaluated"], loop["evaluation_seconds"]
            more = config.evaluations - loop["evaluations"]
            self.evaluations_left = max(loop["evaluations_left"] + more, 0)
            self.make.halved = loop["halved"]
            self.budget.load_state_dict(loop["budget"])
        self.started = time.perf_counter() - self.before

    def go(self, split: Split, labels: _Labels) -> FitOutcome:
        """Make the steps."""
        config = self.config
        sampler = make_sampler(config, split, labels.classes, labels.distilled)
        schedule = RateSchedule(config.schedule, config.warmup_steps, config.decay_every, config.decay_factor)
        first = self.step
        chunks = BatchChunks(sampler.batch, config, self.processes, first)
        workers = worker_count(config, split)
        pin = self.processes.device.type == "cuda"
        if self.evaluated < first:  # a signal may have come before an evaluation that was due
            self._evaluate_if_due()
        with load_chunks(split, chunks.rows(), workers, pin, self._skipped) as images:
            while self._goes_on():
                begun = time.perf_counter()
                factor = schedule.factor(self.step, self.budget.steps)
                for group, peak in zip(self.parts.optimiser.param_groups, self.peaks, strict=True):
                    group["lr"] = peak * factor
                pieces = self._read(images, chunks, first)
                loaded = time.perf_counter()
                self.step += 1
                record = self._update(pieces, labels, factor, begun, loaded)
                self._after(record)
        seconds = time.perf_counter() - self.started
        stopped_by = "steps"
        if self.interrupted:
            stopped_by = str(self.stop.signal_name)
        elif self.step < config.steps:
            stopped_by = "time"
        if stopped_by != "steps" and self.step > first:
            self._save()
        memory = memory_by_part(self.parts, self.around.resident, self.processes.device)
        return FitOutcome(self.step, stopped_by, self.budget.replanned, seconds, memory)

    def _read(self, images: Iterator[Loaded], chunks: BatchChunks, first: int) -> list[Piece]:
        """The next step's; where they cannot be read, what was learnt is saved first."""
        try:
            read = [(number, next(images)) for number in chunks.numbers]
        except (UnreadableImageError, WorkerError):
            if self.processes.count == 1 and self.step > first:
                self._save()
            raise
        return [Piece(number, found.rows, found.images, chunks.count) for number, found in read]

    def _goes_on(self) -> bool:
        """Whether another step is made; the main process's clock counts, a signal to any."""
        main = self.processes.is_main
        late = main and self.budget.out_of_time(time.perf_counter() - self.started)
        plan = self.budget.steps if main else 0
        asked, over, planned = self.processes.greatest(self.stop.asked, late, plan)
        self.budget.steps = int(planned)
        self.interrupted = bool(asked)  # what all have agreed on: a signal may come to one of them any time
        if asked and self.stop.signal_name is None:
            self.stop.signal_name = "SIGTERM"  # it came to another process
        return not (asked or over or self.step >= self.budget.steps)

    def _update(
        self, pieces: list[Piece], labels: _Labels, factor: float, begun: float, loaded: float
    ) -> StepRecord:
        try:
            made = self.make(self.step, pieces, labels.value)
        except NonFiniteBatchError as error:
            raise self._non_finite(error, labels) from error
        now = time.perf_counter()
        images = sum(len(piece.rows) for piece in pieces)
        if self.processes.count > 1:
            images = int(self.processes.summed(torch.tensor(images, device=self.processes.device)))
        return StepRecord(
            step=self.step,
            loss=made.loss,
            learning_rate=self.config.learning_rate * factor,
            gradient_norm=made.gradient_norm,
            step_seconds=now - begun,
            loss_seconds=made.loss_seconds,
            data_seconds=loaded - begun,
            network_seconds=made.network_seconds,
            update_seconds=made.update_seconds,
            images=images,
            images_per_second=images / (now - begun),
            memory_bytes=peak_memory(self.processes.device),
            seconds=now - self.started,
        )

    def _after(self, record: StepRecord) -> None:
        """Log the step, look at the plan again, and evaluate and save where it is time to."""
        self.run.log_step(asdict(record))
        was_replanned, config = self.budget.replanned, self.config
        reserved = self.evaluations_left * self.evaluation_seconds
        self.budget.observe(self.step, record.step_seconds, record.seconds, reserved)
        if self.budget.replanned and not was_replanned:
            self.watcher.on_note(
                f"{config.steps} steps do not fit into {config.seconds:g} s at this speed: planning for "
                f"{self.budget.steps} now, for more again if it gets faster"
            )
        self.watcher.on_step(record, self.budget.steps)
        self._evaluate_if_due()
        if config.checkpoint_every and self.step % config.checkpoint_every == 0 and self.step < config.steps:
            self._save()

    def _evaluate_if_due(self) -> None:
        """What is left of the evaluations is spread over what is left of the steps."""
        due = self.evaluated + round((self.budget.steps - self.evaluated) / (self.evaluations_left + 1))
        wanted = self.evaluations_left > 0 and due <= self.step < self.budget.steps and not self.stop.asked
        if self.processes.any(wanted and self.processes.is_main):
            self._evaluate()

    def _evaluate(self) -> None:
        begun = time.perf_counter()
        self.evaluate_now(self.step)
        ended = time.perf_counter()
        self.evaluation_seconds, self.evaluated = ended - begun, self.step
        left = None if self.config.seconds is None else self.config.seconds - (ended - self.started)
        self.evaluations_left = _affordable(self.evaluations_left - 1, self.evaluation_seconds, left)

    def _save(self) -> None:
        if self.around.checkpoints is None:
            return
        loop = {
            "seconds": time.perf_counter() - self.started,
            "evaluations": self.config.evaluations,
            "evaluations_left": self.evaluations_left,
            "evaluated": self.evaluated,
            "evaluation_seconds": self.evaluation_seconds,
            "halved": self.make.halved,
            "budget": self.budget.state_dict(),
        }
        self.around.checkpoints.save(self.step, self.parts, {"loop": loop, **self.around.extra()})

    def _skipped(self, path: Path) -> None:
        text = f"{path} cannot be read and is left out"
        if self.processes.is_main:
            self.watcher.on_note(text)
        else:  # its watcher shows nothing
            warnings.warn(text, stacklevel=2)

    def _non_finite(self, error: NonFiniteBatchError, labels: _Labels) -> NonFiniteLossError:
        path = self.run.failed_batch
        where = f"its batch is in {path}"
        tensors = {
            "rows": error.rows,
            "images": error.images,
            "labels": labels.classes[error.rows],
            "embeddings": error.embeddings,
        }
        try:
            save_tensors(path, tensors, {"step": str(self.step), "loss": str(error.loss)})
        except OSError as failure:
            where = f"its batch could not be saved: {failure}"
        finite = torch.isfinite(torch.tensor(error.loss))
        what = "a non-finite gradient of the loss" if finite else f"loss {error.loss}"
        return NonFiniteLossError(f"step {self.step} gave {what}; {where}", self.step)


def _stored(loss: nn.Module) -> nn.Module:
    """What of a loss a checkpoint holds: without what gathers the batches of other processes."""
    from fastdml.distributed import GlobalBatchLoss

    return loss.loss if isinstance(loss, GlobalBatchLoss) else loss


def _affordable(evaluations: int, each: float, seconds: float | None) -> int:
    """How many evaluations of ``each`` seconds may still be made: they must not eat the time for training."""
    if seconds is None or each <= 0:
        return max(evaluations, 0)
    return max(min(evaluations, int(_EVALUATION_SHARE * seconds / each)), 0)
