"""`fastdml train`: the engine of the demo with its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, NoReturn

import typer

from fastdml.cli import options
from fastdml.cli.running import run_and_show
from fastdml.training.catalogue import DATASETS, LOSSES, DatasetEntry, LossEntry
from fastdml.training.config import TrainConfig
from fastdml.training.run import RunDirectory


def _loss(name: str) -> str:
    return _list(LOSSES) if name == "help" else name


def _data(name: str) -> str:
    return _list(DATASETS) if name == "help" else name


def _list(table: Mapping[str, DatasetEntry | LossEntry]) -> NoReturn:
    width = max(map(len, table))
    for known, entry in table.items():
        typer.echo(f"{known:<{width}}  {entry.about}")
    raise typer.Exit


def train(
    data: Annotated[
        str, typer.Option(help="Data set; `help` lists them.", callback=_data)
    ] = TrainConfig.data,
    loss: Annotated[str, typer.Option(help="Loss; `help` lists them.", callback=_loss)] = TrainConfig.loss,
    steps: options.Steps = TrainConfig.steps,
    seconds: options.Seconds = TrainConfig.seconds,
    batch: Annotated[int, typer.Option(help="Images a step.")] = TrainConfig.batch,
    samples_per_class: Annotated[
        int, typer.Option(help="Images of each class in a batch.")
    ] = TrainConfig.samples_per_class,
    embedding_dim: Annotated[int, typer.Option(help="Width of the embedding.")] = TrainConfig.embedding_dim,
    network_width: Annotated[
        int, typer.Option(help="Channels of the network's first block.")
    ] = TrainConfig.network_width,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = TrainConfig.learning_rate,
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
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    panel_seconds: options.PanelSeconds = 0.0,
    open_report: options.Open = False,
) -> None:
    """Train an embedding, evaluate it on unseen classes and write a report.

    The run's directory gets config.json, log.jsonl, evaluations.jsonl, metrics.json, weights.safetensors and
    report.html. Ctrl-C and SIGTERM end it after the current step with all of them in place.
    """
    given = locals()
    settings = {field.name: given[field.name] for field in fields(TrainConfig)}
    target = out or RunDirectory.unused(f"runs/{data}-{loss}")
    run_and_show(settings, target, overwrite, panel_seconds, open_report)
