"""What the commands on a trained network share: their options, its data set, embedding with progress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from fastdml.data import Split
from fastdml.data.dataset import Dataset
from fastdml.data.split import reads_files
from fastdml.errors import InputError
from fastdml.training.batches import worker_count
from fastdml.training.config import TrainConfig
from fastdml.training.datasets import open_dataset
from fastdml.training.evaluation import Embedded, Lens, embed_with
from fastdml.training.run_setup import find_device
from fastdml.training.trained import Trained
from fastdml.training.views import Views, shown_shape

Checkpoint = Annotated[
    Path, typer.Argument(help="Directory of a run, or a checkpoint in it.", show_default=False)
]
Data = Annotated[
    str | None,
    typer.Option(help="Data set: a name or a path; by default that of the run.", show_default=False),
]
OnUnreadable = Annotated[
    str | None,
    typer.Option(
        help="An image that cannot be read stops the command (stop) or is left out (skip); by default as in "
        "the run.",
        show_default=False,
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Make a network by import path: this runs code that the run names."),
]


def open_data(
    trained: Trained, data: str | None, layout: str, workers: int | None, on_unreadable: str | None
) -> tuple[TrainConfig, Dataset]:
    """The settings and the data set that a trained network is used on; notes go to standard error.

    Raises:
        InputError: there is none, or its images are not of the shape that the network takes.
    """
    config = replace(
        trained.config,
        data=trained.config.data if data is None else data,
        layout=trained.config.layout if data is None else layout,
        image_size="x".join(map(str, trained.shape[1:])) if len(trained.shape) == 3 else None,
        workers=workers,
        on_unreadable=on_unreadable or trained.config.on_unreadable,
    )
    dataset = open_dataset(config)
    for note in dataset.notes:
        typer.echo(f"note: {note}", err=True)
    given = shown_shape(config, dataset.test)
    if given != trained.shape:
        raise InputError(
            f"data must be of the shape that the network takes, {list(trained.shape)}, got {list(given)} "
            f"from {dataset.name}"
        )
    return config, dataset


def embed_shown(trained: Trained, config: TrainConfig, split: Split, device: str) -> Embedded:
    """The embeddings of a split, with a bar on standard error while they are made."""
    there = find_device(device)
    console = Console(stderr=True)

    def left_out(path: Path) -> None:
        console.print(
            f"note: {path} cannot be read and is left out", markup=False, highlight=False, soft_wrap=True
        )

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"embedding {split.name}", total=len(split))
        lens = Lens(
            views=Views(size=config.pixels if reads_files(split.images) else None),
            workers=worker_count(config, split),
            precision=config.precision,
            on_images=lambda done, of: progress.update(task, completed=done, total=of),
            on_skip=left_out,
        )
        return embed_with(lens, trained.model.to(there), split, there)


def check_folder(name: str, path: Path) -> None:
    """Raises InputError, before any work, unless a file can be put where ``path`` says."""
    if not path.absolute().parent.is_dir():
        raise InputError(f"{name} must lie in a folder that is there, {path.absolute().parent} is none")


def about(trained: Trained) -> str:
    """One line that says which network it is."""
    steps = "" if trained.step is None else f", {trained.step:,} steps"
    return f"network {trained.config.network} of {trained.weights.parent}{steps}"
