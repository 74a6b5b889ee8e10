"""One run from its settings to its report: data, baselines, training, evaluation, what fusing buys."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from fastdml.data import Split
from fastdml.data.dataset import Dataset
from fastdml.distributed import GlobalBatchLoss, ShardedCenters
from fastdml.losses import CrossBatchMemory
from fastdml.noise import CorruptedLabels, NoConfidentSamplesError
from fastdml.training import fusion_panel
from fastdml.training.backbones import make_network, network_description
from fastdml.training.batches import check_batch, worker_count
from fastdml.training.catalogue import find_loss
from fastdml.training.centers import center_history
from fastdml.training.checkpoint import save_weights
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.datasets import check_can_be_judged, open_dataset
from fastdml.training.distillation import (
    NOISE,
    LabelFindings,
    check_takes_soft_labels,
    distill_labels,
    plant,
    remove_files,
)
from fastdml.training.environment import Environment, backend_of, describe
from fastdml.training.evaluation import (
    Lens,
    SplitRetrieval,
    can_compare_pixels,
    embed_with,
    raw_name,
    raw_pixels,
    retrieve,
)
from fastdml.training.loop import Surroundings, fit
from fastdml.training.loss_work import LossWork
from fastdml.training.memory_use import start_counting
from fastdml.training.network import count_parameters
from fastdml.training.processes import Processes, join_processes
from fastdml.training.progress import Display
from fastdml.training.records import FitOutcome, NonFiniteLossError
from fastdml.training.resuming import check_can_resume
from fastdml.training.run import FollowerRun, RunDirectory, read_lines
from fastdml.training.run_checkpoints import RunCheckpoints, Stored
from fastdml.training.run_result import RunResult
from fastdml.training.run_setup import chosen_backend, find_device, make_loss, over_processes
from fastdml.training.silent_display import SilentDisplay
from fastdml.training.stopping import StopRequest
from fastdml.training.tensorboard import BoardDisplay, TensorBoardLog
from fastdml.training.views import make_views

__all__ = ["RunResult", "run_experiment"]

_TRIED = 512  # rows that a backend is chosen with


def run_experiment(
    config: TrainConfig,
    out: str | Path,
    display: Display,
    *,
    overwrite: bool = False,
    resume: bool = False,
    panel_seconds: float = 14.0,
    write_report: Callable[[RunResult, RunDirectory], None] | None = None,
) -> RunResult | None:
    """Train as ``config`` says and leave every file of the run in ``out``.

    SIGINT and SIGTERM end training after the current step; all files are written then too, and ``resume``
    goes on later. Every process that torchrun or accelerate launch has started must call it.

    Args:
        out: directory of the run; one that already holds a run raises ConfigError unless ``overwrite`` or
            ``resume``.
        resume: go on with the run of the same settings in ``out`` from its last checkpoint, or with its
            teacher; from the start where there is neither. On a CPU the result is that of a run that was
            never interrupted, bit for bit.
        panel_seconds: time for measuring what fusing buys; 0 leaves it out.
        write_report: makes report.html; None for the built-in report.

    Returns:
        What was found; None on processes but the first.

    Raises:
        ConfigError: a setting that cannot work; nothing is written then.
        InputError: the data set is not there, or is not one; nothing is written then.
        BackendError: the backend that was asked for cannot run here; nothing is written then.
        CheckpointError: every checkpoint of the run to go on with is damaged.
        NoConfidentSamplesError: the teacher trusts no label; a metrics.json that says so is there.
        NonFiniteLossError: training met a NaN or an infinity; the batch, the log, the weights and a
            metrics.json that says so are there.
    """
    if write_report is None:
        write_report = _built_in_report()
    device = find_device(config.device)
    find_loss(config.loss).check(config.loss_options)  # refused before anything is loaded
    if resume and overwrite:
        raise ConfigError("resume must be off with overwrite: it goes on with what overwrite would delete")
    if resume:
        check_can_resume(config, Path(out))
    processes = join_processes(device)
    if config.distill and processes.count > 1:
        raise ConfigError(f"distill must be off with several processes, got {processes.count}")
    display = display if processes.is_main else SilentDisplay()
    started = time.perf_counter()
    with StopRequest() as stop, chosen_backend(config.backend), torch.random.fork_rng():
        display.on_phase(f"Loading {config.data}")
        materials = _prepare(config, processes)
        for note in materials.dataset.notes:
            display.on_note(note)
        with _directory(processes, out, overwrite, resume) as run:
            processes.any(False)  # what was here before is gone
            experiment = _Experiment(config, materials, processes, run, display, stop)
            step = experiment.take_up(resume)
            run.write_json("config.json", config.to_dict())
            if config.tensorboard and processes.is_main:
                experiment.display = BoardDisplay(display, TensorBoardLog(run.path, step + 1))
            result = experiment.go()
            if result is None or not isinstance(run, RunDirectory):
                return None
            start = time.perf_counter() - started - sum(result.seconds.values())
            result.seconds = {"start": start, **result.seconds}
            if panel_seconds > 0 and not stop.asked:
                display.on_phase(
                    f"Measuring what fusing buys here: {result.environment.backend} against the dense "
                    "reference"
                )
                result.panel = fusion_panel.measure(
                    materials.work, result.environment.backend, processes.device, panel_seconds,
                    go_on=lambda: not stop.asked,
                )  # fmt: skip
                result.seconds["fusion panel"] = result.panel.seconds
            result.seconds["total"] = time.perf_counter() - started
            run.write_json("metrics.json", result.to_dict())
            write_report(result, run)
    return result


@dataclass
class _Materials:
    """What a run is made of, before anything is written."""

    dataset: Dataset
    train: Split
    planted: CorruptedLabels | None
    model: nn.Module
    loss: nn.Module
    work: LossWork
    environment: Environment
    description: dict[str, str]


def _prepare(config: TrainConfig, processes: Processes) -> _Materials:
    """Everything that may be refused, with the random numbers of the run."""
    device = processes.device
    dataset = open_dataset(config)
    check_can_be_judged(dataset)
    train, planted = plant(config, dataset.train)
    check_batch(config, train)
    torch.manual_seed(config.seed)
    model = make_network(config, train).to(device)
    processes.take_from_first(model)
    work = LossWork(
        config.loss, config.embedding_dim, config.samples_per_class, train.num_classes, config.loss_options
    )
    with torch.random.fork_rng():  # what is tried out draws no numbers of the run
        tried = backend_of(work.make(device), *work.batch(min(config.batch, _TRIED), device))
    loss = make_loss(config, work, device)
    if config.distill:
        check_takes_soft_labels(config.loss, loss)
    environment = describe(device, *tried)
    return _Materials(
        dataset, train, planted, model, over_processes(loss, processes), work, environment,
        network_description(config, train),
    )  # fmt: skip


def _directory(
    processes: Processes, out: str | Path, overwrite: bool, resume: bool
) -> RunDirectory | FollowerRun:
    return RunDirectory(out, overwrite, resume) if processes.is_main else FollowerRun(out, processes.rank)


@dataclass
class _Experiment:
    """A run on its way."""

    config: TrainConfig
    materials: _Materials
    processes: Processes
    run: RunDirectory | FollowerRun
    display: Display
    stop: StopRequest
    rows: dict[str, dict[int, float]] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    resumed: Stored | None = None

    def __post_init__(self) -> None:
        config, split = self.config, self.materials.train
        self.views = make_views(config, split)
        self.lens = Lens(
            self.views, worker_count(config, split), config.precision, self.processes,
            on_skip=cache(self._left_out),
        )  # fmt: skip
        loss = self.materials.loss
        self.centers = center_history(loss) if self.processes.count == 1 else None
        self.checkpoints = RunCheckpoints(self.run.path, self.processes.is_main, self.display.on_note)

    def _left_out(self, path: Path) -> None:
        self.display.on_note(f"{path} cannot be read and is left out")

    def take_up(self, resume: bool) -> int:
        """Find what the run goes on from, or remove what an earlier one has left; the steps made before."""
        if not resume:
            self.checkpoints.remove()
            if self.processes.is_main:
                remove_files(self.run.path)
            return 0
        self.resumed = self.checkpoints.newest()
        step = 0 if self.resumed is None else self.resumed.step
        if self.processes.any(step != int(self.processes.greatest(step)[0])):
            raise ConfigError("out must be one folder that every process sees")
        found = {} if self.resumed is None else self.resumed.progress
        self.run.keep_until(step, [at for at, _ in found.get("curve", [])])
        if self.resumed is None:
            return 0
        self.rows.update(found["rows"])
        self.curve += [(int(at), float(value)) for at, value in found["curve"]]
        if self.centers is not None and found["centers"] is not None:  # several processes count none
            self.centers.load_state_dict(found["centers"])
        self.display.on_phase(f"Going on after step {step}, from {self.resumed.folder}")
        return step

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        centers = None if self.centers is None else self.centers.state_dict()
        return {"rows": self.rows, "curve": self.curve, "centers": centers}

    def evaluate(self, step: int) -> tuple[SplitRetrieval | None, torch.Tensor]:
        """Judge the network now; on processes but the first there is no result."""
        test = self.materials.dataset.test
        found = embed_with(self.lens, self.materials.model, test, self.processes.device)
        if not self.processes.is_main:
            return None, found.embeddings
        result = retrieve(found.embeddings, test, self._ks(), found.readable)
        recall = result.result.recall
        self.curve.append((step, recall[1]))
        if self.centers is not None:
            self.centers.record(step)
        self.run.log_evaluation({"step": step, **{f"R@{k}": value for k, value in recall.items()}})
        self.display.on_evaluation(step, recall)
        return result, found.embeddings

    def go(self) -> RunResult | None:
        """Baselines, a teacher, training and the evaluation after it."""
        config, made = self.config, self.materials
        evaluation_seconds = 0.0 if self.resumed is not None else self._baselines()
        labels, teacher_seconds = self._look_at_labels()
        if not self.stop.asked:
            self.display.on_phase(
                f"Training: {config.steps} steps of {config.batch} images, loss {config.loss}"
            )
        resident = start_counting(self.processes.device)
        try:
            outcome = fit(
                made.model, made.loss, made.train, config, self.run, self.display, self.stop,
                self.evaluate, evaluation_seconds, labels.distilled if labels is not None else None,
                Surroundings(
                    self.processes, self.views, self.checkpoints, self.resumed, self.progress,
                    made.description, resident,
                ),
            )  # fmt: skip
        except NonFiniteLossError as error:
            self._save("non-finite loss", error.step - 1)
            self.run.write_json("metrics.json", {"status": "non-finite loss", "message": str(error)})
            raise
        finally:
            self.display.close()
        self._save(outcome.stopped_by, outcome.steps_taken)
        self.display.on_phase("Retrieving with the trained network")
        ended = time.perf_counter()
        final, embeddings = self.evaluate(outcome.steps_taken)
        if final is None:
            return None
        self.rows["trained"] = final.result.recall
        if self.centers is not None:
            self.centers.draw(made.model, made.train, config.seed, self.lens)
        if config.distill:
            self.seconds["teacher"] = teacher_seconds
        self.seconds |= {"training": outcome.seconds, "final evaluation": time.perf_counter() - ended}
        return self._result(outcome, final, embeddings, labels)

    def _result(
        self,
        outcome: FitOutcome,
        final: SplitRetrieval,
        embeddings: torch.Tensor,
        labels: LabelFindings | None,
    ) -> RunResult:
        made = self.materials
        return RunResult(
            self.config, made.environment, made.dataset, made.train, self.rows, self.curve, outcome, final,
            embeddings, count_parameters(made.model), self.processes.count, outcome.memory,
            _time_by_part(self.run.path), self.centers, labels, seconds=self.seconds,
        )  # fmt: skip

    def _baselines(self) -> float:
        """What retrieval is without training; the seconds that an evaluation takes."""
        test = self.materials.dataset.test
        classes = self.materials.dataset.test_classes
        self.display.on_phase(f"Retrieving among {classes} before training")
        begun = time.perf_counter()
        if self.processes.is_main and can_compare_pixels(test):
            self.rows[raw_name(test)] = retrieve(raw_pixels(test), test, self._ks()).result.recall
        pixels_seconds = time.perf_counter() - begun
        found = embed_with(self.lens, self.materials.model, test, self.processes.device)
        if self.processes.is_main:
            result = retrieve(found.embeddings, test, self._ks(), found.readable).result
            self.rows["untrained"] = result.recall
            self.curve.append((0, result.recall[1]))
        each = time.perf_counter() - begun - pixels_seconds
        if self.centers is not None:
            self.centers.record(0)
        self.seconds["baselines"] = pixels_seconds + each
        return each

    def _look_at_labels(self) -> tuple[LabelFindings | None, float]:
        """What was planted and what a teacher finds, in noise.json too; the seconds of the teacher."""
        config, made = self.config, self.materials
        distilled, seconds = None, 0.0
        if config.distill:
            with torch.random.fork_rng():  # a teacher draws no numbers of the student
                torch.manual_seed(config.seed)
                # the network's last layer gives a logit for every class in place of an embedding
                as_teacher = replace(config, embedding_dim=made.train.num_classes, weights=None)
                teacher = make_network(as_teacher, made.train).to(self.processes.device)
            try:
                distilled, seconds = distill_labels(
                    config, teacher, made.train, self.views, self.run.path, self.display, self.stop
                )
            except NoConfidentSamplesError as error:
                self.run.write_json("metrics.json", {"status": "no confident sample", "message": str(error)})
                raise
        elif made.planted is None:
            return None, 0.0
        findings = LabelFindings(made.planted, distilled)
        self.run.write_json(NOISE, findings.to_dict())
        return findings, seconds

    def _save(self, stopped_by: str, step: int) -> None:
        made = self.materials
        if not isinstance(self.run, RunDirectory):
            return
        ended = {"stopped_by": stopped_by, "step": str(step)}
        save_weights(self.run.weights, made.model, {**made.description, **ended})
        loss = made.loss
        while isinstance(loss, (GlobalBatchLoss, CrossBatchMemory)):
            loss = loss.loss
        if not isinstance(loss, ShardedCenters) and next(loss.parameters(), None) is not None:
            save_weights(self.run.loss, loss, {"loss": self.config.loss, **ended})

    def _ks(self) -> tuple[int, ...]:
        return self.materials.dataset.ks


def _time_by_part(run: Path) -> dict[str, float]:
    """Median seconds of a step by part, from its log."""
    log = read_lines(run / "log.jsonl")
    names = {
        "waiting for images": "data_seconds",
        "network": "network_seconds",
        "loss": "loss_seconds",
        "update": "update_seconds",
    }
    return {part: median(record[name] for record in log) for part, name in names.items()} if log else {}


def _built_in_report() -> Callable[[RunResult, RunDirectory], None]:
    from fastdml.training.report import write_report  # the report is made of the classes above

    return write_report
