"""`fastdml train`: the engine of the demo with its options."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import typer

from fastdml.cli import options
from fastdml.cli.running import run_and_show
from fastdml.training.config import TrainConfig
from fastdml.training.run import RunDirectory


def train(
    data: options.Data = TrainConfig.data,
    loss: options.Loss = TrainConfig.loss,
    steps: options.Steps = TrainConfig.steps,
    seconds: options.Seconds = TrainConfig.seconds,
    batch: Annotated[int, typer.Option(help="Images a step.")] = TrainConfig.batch,
    samples_per_class: Annotated[
        int | None, typer.Option(help="Images of each class in a batch; by default what suits the loss.")
    ] = None,
    embedding_dim: Annotated[int, typer.Option(help="Width of the embedding.")] = TrainConfig.embedding_dim,
    network_width: Annotated[
        int, typer.Option(help="Channels of the network's first block.")
    ] = TrainConfig.network_width,
    learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate of the network; centres of classes take a multiple.")
    ] = TrainConfig.learning_rate,
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = TrainConfig.weight_decay,
    warmup_steps: Annotated[
        int, typer.Option(help="Steps over which the rate rises.")
    ] = TrainConfig.warmup_steps,
    evaluations: Annotated[
        int, typer.Option(help="How often Recall@K is measured while training.")
    ] = TrainConfig.evaluations,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Perturb the training images.")
    ] = TrainConfig.augment,
    seed: options.Seed = TrainConfig.seed,
    backend: options.Backend = TrainConfig.backend,
    device: options.Device = TrainConfig.device,
    noise: Annotated[
        float, typer.Option(help="Share of the training images that get a wrong label on purpose.")
    ] = TrainConfig.noise,
    noise_kind: Annotated[
        str,
        typer.Option(help="Another class; an image of no class; a second copy under another class."),
    ] = TrainConfig.noise_kind,
    distill: Annotated[
        bool,
        typer.Option(
            "--distill", help="Train a teacher first and take its soft labels; --seconds does not limit it."
        ),
    ] = TrainConfig.distill,
    teacher_epochs: Annotated[
        int, typer.Option(help="Epochs of each of the teacher's rounds.")
    ] = TrainConfig.teacher_epochs,
    teacher_rounds: Annotated[
        int, typer.Option(help="The teacher's rounds on the images whose label it trusts.")
    ] = TrainConfig.teacher_rounds,
    trust: Annotated[
        float, typer.Option(help="Least probability of a given label that the teacher trusts.")
    ] = TrainConfig.trust,
    temperature: Annotated[
        float, typer.Option(help="Softens the teacher's predictions.")
    ] = TrainConfig.temperature,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted teacher of the run in --out.")
    ] = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    panel_seconds: options.PanelSeconds = 0.0,
    open_report: options.Open = False,
) -> None:
    """Train an embedding, evaluate it on unseen classes and write a report.

    The run's directory gets config.json, log.jsonl, evaluations.jsonl, metrics.json, weights.safetensors,
    loss.safetensors where the loss learns something, and report.html; with --noise or --distill also
    noise.json, and with --distill labels.safetensors and teacher.pt. Ctrl-C and SIGTERM end it after the
    current step with all of them in place.
    """
    given = locals()
    settings = {field.name: given[field.name] for field in fields(TrainConfig)}
    if resume and out is None:
        raise typer.BadParameter("resume needs the directory of the run in --out")
    target = out or RunDirectory.unused(f"runs/{data}-{loss}")
    run_and_show(settings, target, overwrite, panel_seconds, open_report, resume)
