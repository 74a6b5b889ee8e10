"""One run from its settings to its report: data, baselines, training, evaluation, what fusing buys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastdml
from fastdml.backends import BACKENDS
from fastdml.data import Split
from fastdml.noise import CorruptedLabels, NoConfidentSamplesError
from fastdml.training import fusion_panel
from fastdml.training.catalogue import find_dataset, find_loss
from fastdml.training.centers import CenterHistory, center_history
from fastdml.training.checkpoint import save_weights
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.distillation import (
    NOISE,
    LabelFindings,
    check_can_resume,
    check_takes_soft_labels,
    distill_labels,
    plant,
    remove_files,
)
from fastdml.training.environment import Environment, backend_of, describe
from fastdml.training.evaluation import SplitRetrieval, embed, raw_pixels, retrieve
from fastdml.training.fusion_panel import FusionPanel
from fastdml.training.loop import FitOutcome, NonFiniteLossError, fit
from fastdml.training.loss_work import LossWork
from fastdml.training.network import EmbeddingNetwork, count_parameters
from fastdml.training.progress import Display
from fastdml.training.run import RunDirectory
from fastdml.training.stopping import StopRequest


@dataclass
class RunResult:
    """Everything that a run found; the report is made from it.

    ``rows`` maps "raw pixels", "untrained" and "trained" to Recall@K (K -> share); ``curve`` is (step,
    Recall@1) from step 0 on; ``centers`` is None where the loss has no classes of several centres;
    ``labels`` is None where no noise was planted and no teacher asked; ``seconds`` by part of the run.
    ``train`` is as training saw it, with its planted noise.
    """

    config: TrainConfig
    environment: Environment
    train: Split
    test: Split
    rows: dict[str, dict[int, float]]
    curve: list[tuple[int, float]]
    outcome: FitOutcome
    final: SplitRetrieval
    parameters: int
    centers: CenterHistory | None = None
    labels: LabelFindings | None = None
    panel: FusionPanel | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """ "complete", "stopped by time", or "interrupted (SIGINT)"."""
        if self.outcome.stopped_by == "steps":
            return "complete"
        if self.outcome.stopped_by == "time":
            return "stopped by time"
        return f"interrupted ({self.outcome.stopped_by})"

    def to_dict(self) -> dict[str, Any]:
        """What metrics.json holds."""
        return {
            "status": self.status,
            "steps": self.outcome.steps_taken,
            "replanned_by_time_limit": self.outcome.replanned,
            "recall": {
                name: {f"R@{k}": value for k, value in row.items()} for name, row in self.rows.items()
            },
            "recall_at_1_curve": [{"step": step, "recall_at_1": value} for step, value in self.curve],
            "queries": self.final.result.queries,
            "queries_without_positive": self.final.result.queries_without_positive,
            "parameters": self.parameters,
            "centers": self.centers.to_dict() if self.centers is not None else None,
            "labels": self.labels.to_dict() if self.labels is not None else None,
            "seconds": self.seconds,
            "fusion": self.panel.to_dict() if self.panel is not None else None,
            "environment": self.environment.to_dict(),
        }


def run_experiment(
    config: TrainConfig,
    out: str | Path,
    display: Display,
    *,
    overwrite: bool = False,
    resume: bool = False,
    panel_seconds: float = 14.0,
    write_report: Callable[[RunResult, RunDirectory], None] | None = None,
) -> RunResult:
    """Train as ``config`` says and leave every file of the run in ``out``.

    SIGINT and SIGTERM end training after the current step; all files are written then too. Where they come
    while a teacher is trained, ``resume`` takes it up again later.

    Args:
        out: directory of the run; one that already holds a run raises ConfigError unless ``overwrite`` or
            ``resume``.
        resume: go on with the teacher of a run of the same settings in ``out``, then train from the start;
            a new run where there is none. Needs ``distill``.
        panel_seconds: time for measuring what fusing buys; 0 leaves it out.
        write_report: makes report.html; None for the built-in report.

    Raises:
        ConfigError: a setting that cannot work; nothing is written then.
        BackendError: the backend that was asked for cannot run here; nothing is written then.
        NoConfidentSamplesError: the teacher trusts no label; a metrics.json that says so is there.
        NonFiniteLossError: training met a NaN or an infinity; the batch, the log, the weights and a
            metrics.json that says so are there.
    """
    if write_report is None:
        write_report = _built_in_report()
    device = find_device(config.device)
    find_loss(config.loss)  # an unknown name is refused before anything is loaded
    dataset = find_dataset(config.data)
    if resume and overwrite:
        raise ConfigError("resume must be off with overwrite: it goes on with what overwrite would delete")
    if resume:
        check_can_resume(config, Path(out))
    started = time.perf_counter()
    with StopRequest() as stop, chosen_backend(config.backend), torch.random.fork_rng():
        display.on_phase(f"Loading {config.data}")
        train, test = dataset.load("train"), dataset.load("test")
        train, planted = plant(config, train)
        check_batch(config, train)
        torch.manual_seed(config.seed)
        model = make_network(config, train).to(device)
        work = LossWork(config.loss, config.embedding_dim, config.samples_per_class, train.num_classes)
        loss = work.make(device)
        if config.distill:
            check_takes_soft_labels(config.loss, loss)
        with torch.random.fork_rng():  # what is tried out draws no numbers of the run
            tried = backend_of(loss, *work.batch(config.batch, device))
        environment = describe(device, *tried)
        with RunDirectory(out, overwrite or resume) as run:
            if not resume:
                remove_files(run.path)
            run.write_json("config.json", config.to_dict())
            result = _train_and_evaluate(
                config, model, loss, train, test, planted, environment, run, display, stop
            )
            start = time.perf_counter() - started - sum(result.seconds.values())
            result.seconds = {"start": start, **result.seconds}
            if panel_seconds > 0 and not stop.asked:
                result.panel = _measure_fusion(work, environment, device, panel_seconds, display, stop)
                result.seconds["fusion panel"] = result.panel.seconds
            result.seconds["total"] = time.perf_counter() - started
            run.write_json("metrics.json", result.to_dict())
            write_report(result, run)
    return result


def make_network(config: TrainConfig, train: Split) -> EmbeddingNetwork:
    """The network of a run with fresh weights, set up for the pixels of the training images."""
    images = train.images[torch.arange(len(train))]
    model = EmbeddingNetwork(config.embedding_dim, config.network_width, image_size=images.shape[-1])
    model.set_pixel_statistics(images)
    return model


def check_batch(config: TrainConfig, train: Split) -> None:
    """Raises ConfigError unless the classes of the split fill a batch."""
    _, sizes = torch.unique(train.labels, return_counts=True)
    if config.samples_per_class > int(sizes.min()) and not config.noise:  # with noise, images are repeated
        raise ConfigError(
            f"samples_per_class must be at most {int(sizes.min())}, the size of the smallest class of "
            f"{config.data}, got {config.samples_per_class}"
        )
    if config.classes_per_batch > sizes.numel():
        raise ConfigError(
            f"batch needs {config.classes_per_batch} classes, but {config.data} has only {sizes.numel()} to "
            f"train on: at most {sizes.numel() * config.samples_per_class} with {config.samples_per_class} "
            "samples a class"
        )


def _train_and_evaluate(
    config: TrainConfig,
    model: EmbeddingNetwork,
    loss: nn.Module,
    train: Split,
    test: Split,
    planted: CorruptedLabels | None,
    environment: Environment,
    run: RunDirectory,
    display: Display,
    stop: StopRequest,
) -> RunResult:
    device = next(model.parameters()).device
    display.on_phase(f"Retrieving among {test.num_classes} unseen classes before training")
    begun = time.perf_counter()
    rows = {"raw pixels": retrieve(raw_pixels(test), test).result.recall}
    pixels_seconds = time.perf_counter() - begun
    rows["untrained"] = retrieve(embed(model, test, device), test).result.recall
    each = time.perf_counter() - begun - pixels_seconds
    curve = [(0, rows["untrained"][1])]
    centers = center_history(loss)
    if centers is not None:
        centers.record(0)

    def evaluate_now(step: int) -> SplitRetrieval:
        found = retrieve(embed(model, test, device), test)
        recall = found.result.recall
        curve.append((step, recall[1]))
        if centers is not None:
            centers.record(step)
        run.log_evaluation({"step": step, **{f"R@{k}": value for k, value in recall.items()}})
        display.on_evaluation(step, recall)
        return found

    labels, teacher_seconds = _look_at_labels(config, train, planted, device, run, display, stop)
    if not stop.asked:
        display.on_phase(f"Training: {config.steps} steps of {config.batch} images, loss {config.loss}")
    try:
        distilled = labels.distilled if labels is not None else None
        outcome = fit(model, loss, train, config, run, display, stop, evaluate_now, each, distilled)
    except NonFiniteLossError as error:
        _save(run, model, loss, config, "non-finite loss")
        run.write_json("metrics.json", {"status": "non-finite loss", "message": str(error)})
        raise
    finally:
        display.close()
    _save(run, model, loss, config, outcome.stopped_by)
    display.on_phase("Retrieving with the trained network")
    ended = time.perf_counter()
    final = evaluate_now(outcome.steps_taken)
    rows["trained"] = final.result.recall
    if centers is not None:
        centers.draw(model, train, config.seed)
    seconds = {
        "baselines": pixels_seconds + each,
        **({"teacher": teacher_seconds} if config.distill else {}),
        "training": outcome.seconds,
        "final evaluation": time.perf_counter() - ended,
    }
    return RunResult(
        config,
        environment,
        train,
        test,
        rows,
        curve,
        outcome,
        final,
        count_parameters(model),
        centers,
        labels,
        seconds=seconds,
    )


def _look_at_labels(
    config: TrainConfig,
    train: Split,
    planted: CorruptedLabels | None,
    device: torch.device,
    run: RunDirectory,
    display: Display,
    stop: StopRequest,
) -> tuple[LabelFindings | None, float]:
    """What was planted and what a teacher finds, written to noise.json too; the seconds of the teacher."""
    distilled, seconds = None, 0.0
    if config.distill:
        with torch.random.fork_rng():  # a teacher draws no numbers of the student
            torch.manual_seed(config.seed)
            # the network's last layer gives a logit for every class in place of an embedding
            teacher = make_network(replace(config, embedding_dim=train.num_classes), train).to(device)
        try:
            distilled, seconds = distill_labels(config, teacher, train, run.path, display, stop)
        except NoConfidentSamplesError as error:
            run.write_json("metrics.json", {"status": "no confident sample", "message": str(error)})
            raise
    elif planted is None:
        return None, 0.0
    findings = LabelFindings(planted, distilled)
    run.write_json(NOISE, findings.to_dict())
    return findings, seconds


def _save(run: RunDirectory, model: nn.Module, loss: nn.Module, config: TrainConfig, stopped_by: str) -> None:
    save_weights(
        run.weights,
        model,
        {
            "network": "fastdml.training.network.EmbeddingNetwork",
            "embedding_dim": str(config.embedding_dim),
            "network_width": str(config.network_width),
            "stopped_by": stopped_by,
        },
    )
    if next(loss.parameters(), None) is not None:
        save_weights(run.loss, loss, {"loss": config.loss, "stopped_by": stopped_by})


def _measure_fusion(
    work: LossWork,
    environment: Environment,
    device: torch.device,
    seconds: float,
    display: Display,
    stop: StopRequest,
) -> FusionPanel:
    display.on_phase(f"Measuring what fusing buys here: {environment.backend} against the dense reference")
    return fusion_panel.measure(work, environment.backend, device, seconds, go_on=lambda: not stop.asked)


def _built_in_report() -> Callable[[RunResult, RunDirectory], None]:
    from fastdml.training.report import write_report  # the report is made of the classes above

    return write_report


@contextmanager
def chosen_backend(name: str | None) -> Iterator[None]:
    """The backend that was asked for; with None, what FASTDML_BACKEND says stays."""
    if name is not None and name not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    with nullcontext() if name is None else fastdml.use_backend(name):
        yield


def find_device(name: str) -> torch.device:
    """The device of that name; one that is not here raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not here: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device
