"""`fastdml compare`: every loss under one protocol, in one table."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fastdml.cli import options
from fastdml.cli.running import errors_told
from fastdml.training.catalogue import LOSSES
from fastdml.training.comparison import Outcome, Protocol
from fastdml.training.comparison import compare as run_comparison
from fastdml.training.comparison.display import make_display
from fastdml.training.comparison.table import COLUMNS, rows_of
from fastdml.training.config import ConfigError


def compare(
    data: options.BuiltInData = Protocol.data,
    losses: Annotated[
        str, typer.Option(help="Losses with commas between them; all of them by default.", show_default=False)
    ] = "",
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, 2, ...")] = 3,
    steps: options.Steps = Protocol.steps,
    batch: options.Batch = Protocol.batch,
    embedding_dim: options.EmbeddingDim = Protocol.embedding_dim,
    network_width: options.NetworkWidth = Protocol.network_width,
    learning_rate: options.LearningRate = Protocol.learning_rate,
    weight_decay: options.WeightDecay = Protocol.weight_decay,
    warmup_steps: options.WarmupSteps = Protocol.warmup_steps,
    evaluations: Annotated[
        int, typer.Option(help="How often the held-out training classes are looked at, to keep the best.")
    ] = Protocol.evaluations,
    backend: options.Backend = Protocol.backend,
    device: options.Device = Protocol.device,
    out: Annotated[Path, typer.Option(help="Folder of the comparison; one that is there goes on.")] = Path(
        "runs/comparison"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the comparison that is in --out first.")
    ] = False,
) -> None:
    """Train every loss under one fair protocol and leave table, figure and page.

    Same network, budget, batch size, seeds and initial weights for all; hyper-parameters as the catalogue has
    them. The checkpoint is chosen on held-out training classes, the test classes are looked at once.

    Finished cells are kept: the same command goes on where it was stopped, and more losses or seeds can be
    added. Ctrl-C and SIGTERM end it after the current step, with the table of what is finished.
    """
    names = [name.strip() for name in losses.split(",") if name.strip()] or list(LOSSES)
    console = Console()
    with errors_told():
        if seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {seeds}")
        protocol = Protocol(
            data=data,
            steps=steps,
            batch=batch,
            embedding_dim=embedding_dim,
            network_width=network_width,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            evaluations=evaluations,
            backend=backend,
            device=device,
        )
        outcome = run_comparison(
            protocol, names, range(seeds), out, make_display(console), overwrite=overwrite
        )
    _print(outcome, console)
    print(f"page: {(out / 'index.html').resolve()}")
    if outcome.signal_name is not None and outcome.to_come:
        raise typer.Exit(128 + signal.Signals[outcome.signal_name].value)


def _print(outcome: Outcome, console: Console) -> None:
    table = Table(title="In percent, mean ± standard deviation over n seeds", title_justify="left")
    table.add_column("loss")
    for name in (*COLUMNS, "n"):
        table.add_column(name, justify="right")
    for row in rows_of(outcome.cells):
        figures = [str(row.figures[name]) if row.figures else "failed" for name in COLUMNS]
        table.add_row(row.loss, *figures, str(row.n))
    console.print(table)
    if outcome.to_come:
        print(f"{outcome.to_come} cells are still to come; the same command goes on")
