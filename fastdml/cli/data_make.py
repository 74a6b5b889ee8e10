"""`fastdml data make`: data sets that anyone can make."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastdml.data.glyph_making.sets import GLYPHS_LARGE
from fastdml.errors import InputError

SETS = {GLYPHS_LARGE.name: GLYPHS_LARGE}


def make(
    name: Annotated[str, typer.Argument(metavar="SET", help=f"What to make: {', '.join(SETS)}.")],
    out: Annotated[Path, typer.Option(help="Folder of the set; new or empty.")],
    fonts: Annotated[
        Path | None,
        typer.Option(help="Folder of Debian packages; missing ones are fetched into it, with apt-get."),
    ] = None,
    classes: Annotated[
        int, typer.Option(help="Kanji, the first half for training and the others for testing.")
    ] = GLYPHS_LARGE.classes,
    side: Annotated[int, typer.Option(help="Height and width of an image in pixels.")] = GLYPHS_LARGE.side,
) -> None:
    """Make a data set on this machine.

    **glyphs-large** has the shape of Stanford Online Products: 70,000 images, 2,800 kanji in 25 typefaces,
    half of them for training. It takes a few minutes and some 240 MB of fonts from Debian, for which dpkg-deb
    and apt-get must be there. The folder appears when it is whole; Ctrl-C leaves nothing behind.
    """
    if importlib.util.find_spec("fontTools") is None:
        raise _failed("drawing needs fontTools, which is not installed: pip install 'fastdml[glyphs]'", 1)
    from fastdml.data.glyph_making.fonts import FontError
    from fastdml.data.glyph_making.making import make as make_set

    console = Console()
    try:
        if name not in SETS:
            raise InputError(f"SET must be {' or '.join(SETS)}, got {name!r}")
        with _signals_end_the_command(), _Stages(console) as stages:
            made = make_set(replace(SETS[name], classes=classes, side=side), out, fonts, report=stages.report)
    except InputError as error:
        raise _failed(error, 2) from error
    except BrokenExecutor as error:
        raise _failed(f"a process that draws was ended from outside: {error}", 1) from error
    except (FontError, OSError) as error:
        raise _failed(error, 1) from error
    print(f"{len(made.kanji):,} kanji in {len(made.sources)} typefaces, {side} x {side} pixels")
    for split, arrays in made.splits.items():
        size = (out / f"{split}.npz").stat().st_size
        print(f"{split:<5}  {len(arrays.images):,} images, {size:,} bytes")
    print(f"folder: {out.resolve()}")


class _Stages:
    """A bar for the stage that is under way."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Stages:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)


@contextmanager
def _signals_end_the_command() -> Iterator[None]:
    """SIGINT and SIGTERM unwind what is open, processes and half-written folder, and exit 130 or 143."""

    def end(number: int, frame: object) -> None:
        typer.echo("stopped; no data set was written", err=True)
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _failed(error: object, code: int) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(code)
