"""Options that more than one command takes, described once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fastdml.training.catalogue import DATASETS, LOSSES, DatasetEntry, LossEntry


def _loss(name: str) -> str:
    return _list(LOSSES) if name == "help" else name


def _data(name: str) -> str:
    return _list(DATASETS) if name == "help" else name


def _list(table: Mapping[str, DatasetEntry | LossEntry]) -> NoReturn:
    width = max(map(len, table))
    for known, entry in table.items():
        typer.echo(f"{known:<{width}}  {entry.about}")
    raise typer.Exit


Data = Annotated[str, typer.Option(help="Data set; `help` lists them.", callback=_data)]
Loss = Annotated[str, typer.Option(help="Loss; `help` lists them.", callback=_loss)]
Steps = Annotated[
    int, typer.Option(help="Optimiser steps; the learning-rate schedule is laid out over them.")
]
Seconds = Annotated[
    float | None,
    typer.Option(
        help="Limit on the training time. Where the steps would not fit, fewer are planned, early on."
    ),
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Backend = Annotated[
    str | None,
    typer.Option(help="triton, cuda, cpu, blocked or reference; by default the best that can run."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<n>.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Directory of the run; by default a new one under runs/.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")]
PanelSeconds = Annotated[
    float, typer.Option(min=0, help="Time for measuring what fusing buys here; 0 leaves it out.")
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the report, where there is a desktop.")]
