"""`fastdml data`: what a data set holds, and unpacking one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fastdml.cli.data_make import make
from fastdml.cli.running import errors_told
from fastdml.data.archives import unpack as unpack_archive
from fastdml.data.dataset import Dataset
from fastdml.data.images import ImageFiles, UnreadableImageError
from fastdml.data.layouts import LAYOUTS, load_dataset
from fastdml.data.split import Split
from fastdml.data.unreadable import read_all

COLUMNS = ("split", "images", "classes", "queries", "gallery", "cameras", "images a class")

data_app = typer.Typer(no_args_is_help=True, help="Look at data sets, unpack them and make them.")
data_app.command()(make)


@data_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set; a .csv, .npz or .safetensors file.")],
    layout: Annotated[str, typer.Option(help=f"auto, {', '.join(LAYOUTS)}.")] = "auto",
    read: Annotated[bool, typer.Option("--read/--no-read", help="Decode every image.")] = True,
) -> None:
    """Say what is found: layout, splits, counts that are not the published ones, unreadable images.

    Exit code 0: all well. 1: something is missing, differs or cannot be read. 2: not a data set.
    """
    with errors_told():
        dataset = load_dataset(path, layout, on_error="skip")
    print(f"{dataset.name}: {LAYOUTS[dataset.layout].about} (layout {dataset.layout})")
    _print_splits(dataset)
    for note in dataset.notes:
        print(f"note: {note}")
    unreadable = _unreadable(dataset) if read else []
    for trouble in unreadable:
        print(f"unreadable: {trouble.path}: {trouble.why}")
    if dataset.notes or unreadable:
        raise typer.Exit(1)
    print("nothing is amiss")


@data_app.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="A .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz file.")],
    out: Annotated[Path, typer.Option(help="Folder that is made.")],
) -> None:
    """Unpack an archive; one with a member that would lie outside of --out, or with links, is refused."""
    with errors_told(), _progress() as progress:
        task = progress.add_task("unpacking", total=None)
        made = unpack_archive(archive, out, lambda done, of: progress.update(task, completed=done, total=of))
    print(f"unpacked: {made}")


def _unreadable(dataset: Dataset) -> list[UnreadableImageError]:
    stores = [split.images for split in (dataset.train, dataset.test)]
    paths = [path for store in stores if isinstance(store, ImageFiles) for path in store.paths]
    if not paths:
        return []
    with _progress() as progress:
        found = list(progress.track(read_all(paths), total=len(paths), description="reading"))
    unreadable = [error for error in found if error is not None]
    print(f"read {len(paths):,} images, {len(unreadable):,} of them unreadable")
    return unreadable


def _print_splits(dataset: Dataset) -> None:
    rows = [_row(split) for split in (dataset.train, dataset.test)]
    console = Console()
    if not console.is_terminal:
        for row in rows:
            print("  ".join(f"{name} {cell}" for name, cell in zip(COLUMNS, row, strict=True)))
        return
    table = Table()
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "split" else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _row(split: Split) -> tuple[str, ...]:
    sizes = torch.unique(split.labels, return_counts=True)[1]
    spread = "none"
    if len(sizes):
        spread = f"{int(sizes.min())} to {int(sizes.max())}, median {int(sizes.median())}"
    cameras = "none" if split.cameras is None else f"{len(torch.unique(split.cameras)):,}"
    counts = (len(split), len(sizes), int(split.is_query.sum()), int(split.is_gallery.sum()))
    return (split.name.rpartition("/")[2], *(f"{count:,}" for count in counts), cameras, spread)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
