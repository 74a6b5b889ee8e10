"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import fastdml
from fastdml.cli.compare import compare
from fastdml.cli.data import data_app
from fastdml.cli.demo import demo
from fastdml.cli.doctor import doctor
from fastdml.cli.embed import embed
from fastdml.cli.evaluate import evaluate
from fastdml.cli.export import export
from fastdml.cli.train import train

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.command()(demo)
app.command()(train)
app.command()(evaluate)
app.command()(embed)
app.command()(export)
app.command()(compare)
app.add_typer(data_app, name="data")
app.command(help="Tell what is installed, what was built, and which backend would run and why.")(doctor)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fastdml {fastdml.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fused deep-metric-learning losses: train, look, and see what they save."""
