"""The training loop: batches, steps, the log, and the ways in which it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fastdml.data import Augment, Split
from fastdml.data.samplers import ClassBalancedBatchSampler
from fastdml.noise import DistilledLabels
from fastdml.recipes import parameter_groups
from fastdml.soft_labels import SoftLabels
from fastdml.training.catalogue import find_loss
from fastdml.training.checkpoint import save_tensors
from fastdml.training.config import TrainConfig
from fastdml.training.network import global_gradient_norm
from fastdml.training.run import RunDirectory
from fastdml.training.schedule import StepBudget, learning_rate_factor
from fastdml.training.stopping import StopRequest

_EVALUATION_SHARE = 0.2  # of a time limit, at most, goes into evaluations during training


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient was NaN or infinite.

    The batch is saved, and the parameters are those of the step before.
    """


@dataclass(frozen=True)
class StepRecord:
    """One line of log.jsonl.

    ``learning_rate`` is that of the network. Times in seconds; ``seconds`` since training began, evaluations
    included.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    step_seconds: float
    loss_seconds: float
    images_per_second: float
    seconds: float


class StepWatcher(Protocol):
    """Who is told about a running training."""

    def on_step(self, record: StepRecord, steps: int) -> None:
        """A step of ``steps`` was made."""

    def on_note(self, text: str) -> None:
        """Something that a person should know."""


@dataclass(frozen=True)
class FitOutcome:
    """How training ended.

    ``stopped_by`` is "steps", "time" or the name of a signal; ``replanned`` says that a time limit changed
    the schedule on the way, so that the settings alone do not repeat the run; ``seconds`` counts evaluations.
    """

    steps_taken: int
    stopped_by: str
    replanned: bool
    seconds: float


def fit(
    model: nn.Module,
    loss: nn.Module,
    split: Split,
    config: TrainConfig,
    run: RunDirectory,
    watcher: StepWatcher,
    stop: StopRequest,
    evaluate_now: Callable[[int], object],
    evaluation_seconds: float = 0.0,
    distilled: DistilledLabels | None = None,
) -> FitOutcome:
    """Train ``model`` in place with AdamW, and with it what the loss learns.

    Args:
        split: the training images; batches move to the model's device. The loss is given their classes,
            counted from 0 without gaps.
        run: an entered run directory; gets a line a step.
        stop: asked between steps.
        evaluate_now: called with the step number, ``config.evaluations - 1`` times at even distances; the
            last evaluation, after training, is the caller's.
        evaluation_seconds: what one such call takes, for keeping a time limit.
        distilled: of these images and classes. The loss is then given their soft labels, with a confidence of
            1 where the given label is trusted and 0 elsewhere. Batches are drawn by the classes that the
            teacher predicts, so that the centroid of an image's class is there.

    Raises:
        NonFiniteLossError: after the batch was saved.
    """
    optimiser = make_optimiser(model, loss, config)
    peaks = [group["lr"] for group in optimiser.param_groups]
    classes = class_indices(split)
    sampler = ClassBalancedBatchSampler(
        _balanced_by(classes, distilled, config.classes_per_batch),
        classes_per_batch=config.classes_per_batch,
        samples_per_class=config.samples_per_class,
        seed=config.seed,
        num_batches=config.steps,
        replacement=config.noise > 0 or distilled is not None,  # some classes are left with few images
    )
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    augment = Augment() if config.augment else None
    budget = StepBudget(config.steps, config.seconds)
    started = time.perf_counter()
    stopped_by, step = "steps", 0
    evaluations_left = _affordable(config.evaluations - 1, evaluation_seconds, config.seconds)
    evaluated = 0
    model.train()
    for rows in sampler:
        if stop.asked or step >= budget.steps or budget.out_of_time(time.perf_counter() - started):
            break
        begun = time.perf_counter()
        factor = learning_rate_factor(step, budget.steps, config.warmup_steps)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        batch = _Batch.take(split, classes, rows, augment, generator, distilled)
        step += 1
        value, norm, loss_seconds = _step(model, loss, optimiser, batch, step, run)
        now = time.perf_counter()
        record = StepRecord(
            step=step,
            loss=value,
            learning_rate=config.learning_rate * factor,
            gradient_norm=norm,
            step_seconds=now - begun,
            loss_seconds=loss_seconds,
            images_per_second=len(batch.rows) / (now - begun),
            seconds=now - started,
        )
        run.log_step(asdict(record))
        was_replanned = budget.replanned
        budget.observe(step, now - begun, now - started, evaluations_left * evaluation_seconds)
        if budget.replanned and not was_replanned:
            watcher.on_note(
                f"{config.steps} steps do not fit into {config.seconds:g} s at this speed: planning for "
                f"{budget.steps} now, for more again if it gets faster"
            )
        watcher.on_step(record, budget.steps)
        # What is left of the evaluations is spread over what is left of the steps.
        due = evaluated + round((budget.steps - evaluated) / (evaluations_left + 1))
        if evaluations_left > 0 and due <= step < budget.steps and not stop.asked:
            begun = time.perf_counter()
            evaluate_now(step)
            ended = time.perf_counter()
            evaluation_seconds, evaluated = ended - begun, step
            left = None if config.seconds is None else config.seconds - (ended - started)
            evaluations_left = _affordable(evaluations_left - 1, evaluation_seconds, left)
    seconds = time.perf_counter() - started
    if stop.signal_name is not None:
        stopped_by = stop.signal_name
    elif step < config.steps:
        stopped_by = "time"
    return FitOutcome(step, stopped_by, budget.replanned, seconds)


def make_optimiser(model: nn.Module, loss: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with the peak rates of a run; the centres of a loss have their own."""
    rate = config.learning_rate
    center_rate = find_loss(config.loss).center_rate
    groups = parameter_groups(
        model,
        loss,
        lr=rate,
        center_lr=None if center_rate is None else rate * center_rate,
        weight_decay=config.weight_decay,
    )
    return torch.optim.AdamW(groups)


def class_indices(split: Split) -> Tensor:
    """int64 [N], the class of every image of a split, classes counted from 0 without gaps."""
    return torch.unique(split.labels, return_inverse=True)[1]


def _balanced_by(classes: Tensor, distilled: DistilledLabels | None, least: int) -> Tensor:
    """int64 [N], the class that each image is drawn by; a teacher that predicts too few is not followed."""
    if distilled is None or distilled.predicted.unique().numel() < least:
        return classes
    return distilled.predicted


def _affordable(evaluations: int, each: float, seconds: float | None) -> int:
    """How many evaluations of ``each`` seconds may still be made: they must not eat the time for training."""
    if seconds is None or each <= 0:
        return max(evaluations, 0)
    return max(min(evaluations, int(_EVALUATION_SHARE * seconds / each)), 0)


@dataclass(frozen=True)
class _Batch:
    rows: Tensor  # int64 [B], of the split
    images: Tensor  # float32 [B, 1, H, W] in [0, 1]
    labels: Tensor  # int64 [B], classes from 0 on
    soft: SoftLabels | None  # [B]
    confidence: Tensor | None  # float32 [B], 0 or 1

    @staticmethod
    def take(
        split: Split,
        classes: Tensor,
        rows: Tensor,
        augment: Augment | None,
        generator: torch.Generator,
        distilled: DistilledLabels | None,
    ) -> _Batch:
        device = generator.device
        images = split.batch(rows).to(device)
        if augment is not None:
            images = augment(images, generator)
        labels = classes[rows].to(device)
        if distilled is None:
            return _Batch(rows, images, labels, None, None)
        trusted = distilled.trusted[rows].to(device, torch.float32)
        return _Batch(rows, images, labels, distilled.soft[rows].to(device), trusted)

    def value(self, loss: nn.Module, embeddings: Tensor) -> Tensor:
        """The loss of embeddings [B, D] of its images."""
        if self.soft is None:
            return loss(embeddings, self.labels)
        return loss(embeddings, self.soft, confidence=self.confidence)


def _step(
    model: nn.Module,
    loss: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: _Batch,
    step: int,
    run: RunDirectory,
) -> tuple[float, float, float]:
    """One update; returns (loss, gradient norm, seconds in the loss, forward and backward)."""
    optimiser.zero_grad(set_to_none=True)
    embeddings = model(batch.images)
    # The loss gets embeddings cut from the network's graph: its gradient is then a plain tensor that can be
    # timed and looked at by itself before it goes on into the network.
    cut = embeddings.detach().requires_grad_()
    _wait_for(cut)
    begun = time.perf_counter()
    value = batch.value(loss, cut)
    value.backward()
    _wait_for(cut)
    loss_seconds = time.perf_counter() - begun
    gradient = cut.grad if cut.grad is not None else torch.zeros_like(cut)
    learnt = [parameter.grad for parameter in loss.parameters() if parameter.grad is not None]
    if not all(bool(torch.isfinite(found).all()) for found in (value, gradient, *learnt)):
        raise _non_finite(batch, embeddings, value, step, run)

    embeddings.backward(gradient)
    norm = global_gradient_norm(model)
    optimiser.step()
    return float(value.detach()), norm, loss_seconds


def _non_finite(batch: _Batch, embeddings: Tensor, value: Tensor, step: int, run: RunDirectory) -> Exception:
    tensors = {"rows": batch.rows, "images": batch.images, "labels": batch.labels, "embeddings": embeddings}
    save_tensors(run.failed_batch, tensors, {"step": str(step), "loss": str(float(value.detach()))})
    what = (
        f"loss {float(value.detach())}"
        if not bool(torch.isfinite(value))
        else "a non-finite gradient of the loss"
    )
    return NonFiniteLossError(f"step {step} gave {what}; its batch is in {run.failed_batch}")


def _wait_for(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
