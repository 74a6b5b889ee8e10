"""`fastdml train`: the engine of the demo with its options."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from fastdml.cli import options
from fastdml.cli.running import errors_told, run_and_show
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.run import RunDirectory
from fastdml.training.settings import merge_settings
from fastdml.training.settings_text import OPTIONS, to_toml


def train(
    context: typer.Context,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    print_config: options.PrintConfig = False,
    data: options.Data = TrainConfig.data,
    layout: options.Layout = TrainConfig.layout,
    image_size: options.ImageSize = TrainConfig.image_size,
    fit: options.Fit = TrainConfig.fit,
    on_unreadable: options.OnUnreadable = TrainConfig.on_unreadable,
    workers: options.Workers = TrainConfig.workers,
    loss: options.Loss = TrainConfig.loss,
    memory: options.Memory = TrainConfig.memory,
    steps: options.Steps = TrainConfig.steps,
    seconds: options.Seconds = TrainConfig.seconds,
    batch: options.Batch = TrainConfig.batch,
    chunk: options.Chunk = TrainConfig.chunk,
    samples_per_class: options.SamplesPerClass = None,
    repeat_images: options.RepeatImages = TrainConfig.repeat_images,
    network: options.Network = TrainConfig.network,
    weights: options.Weights = TrainConfig.weights,
    freeze: options.Freeze = TrainConfig.freeze,
    embedding_dim: options.EmbeddingDim = TrainConfig.embedding_dim,
    network_width: options.NetworkWidth = TrainConfig.network_width,
    learning_rate: options.LearningRate = TrainConfig.learning_rate,
    weight_decay: options.WeightDecay = TrainConfig.weight_decay,
    warmup_steps: options.WarmupSteps = TrainConfig.warmup_steps,
    precision: options.Precision = TrainConfig.precision,
    evaluations: options.Evaluations = TrainConfig.evaluations,
    augment: options.Augment = TrainConfig.augment,
    seed: options.Seed = TrainConfig.seed,
    backend: options.Backend = TrainConfig.backend,
    device: options.Device = TrainConfig.device,
    checkpoint_every: options.CheckpointEvery = TrainConfig.checkpoint_every,
    tensorboard: options.Tensorboard = TrainConfig.tensorboard,
    noise: options.Noise = TrainConfig.noise,
    noise_kind: options.NoiseKind = TrainConfig.noise_kind,
    distill: options.Distill = TrainConfig.distill,
    teacher_epochs: options.TeacherEpochs = TrainConfig.teacher_epochs,
    teacher_rounds: options.TeacherRounds = TrainConfig.teacher_rounds,
    trust: options.Trust = TrainConfig.trust,
    temperature: options.Temperature = TrainConfig.temperature,
    resume: options.Resume = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    panel_seconds: options.PanelSeconds = 0.0,
    open_report: options.Open = False,
) -> None:
    """Train an embedding, evaluate it on unseen classes and write a report.

    Settings come from --config, then from the options that are given, then from --set; every setting has a
    --set. `torchrun` or `accelerate launch` starts it on several devices.

    The run's directory gets config.json, log.jsonl, evaluations.jsonl, metrics.json, weights.safetensors,
    loss.safetensors where the loss learns something, checkpoints/, and report.html; with --noise or --distill
    also noise.json, and with --distill labels.safetensors and teacher.pt. Ctrl-C and SIGTERM end it after the
    current step with all of them in place; --resume goes on.
    """
    words = locals()
    given = {name: words[name] for name in OPTIONS if _is_given(context, name)}
    with errors_told():
        if resume and out is None:
            raise ConfigError("resume needs the directory of the run in --out")
        resumed = _settings_in(out) if resume and out is not None else None
        if resume and resumed is None and not (config_file or given or assignments):
            raise ConfigError(
                f"out must hold the run to go on with, {out} holds none, and no settings for one"
            )
        config = merge_settings(config_file, given, assignments or (), resumed)
        if print_config:
            typer.echo(to_toml(config), nl=False)
            return
        run_and_show(config, out or _new_directory(config), overwrite, panel_seconds, open_report, resume)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _settings_in(out: Path) -> dict[str, object] | None:
    path = out / "config.json"
    return TrainConfig.read(path).to_dict() if path.exists() else None


def _new_directory(config: TrainConfig) -> Path:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("out must name the directory of the run where several processes train it")
    return RunDirectory.unused(f"runs/{Path(config.data).stem}-{config.loss}")
