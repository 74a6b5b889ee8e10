"""What a person sees while a comparison goes on: two bars on a terminal, a line a cell elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fastdml.training.comparison.cells import Cell
from fastdml.training.records import StepRecord, StepWatcher

_SPEED_SECONDS = 600.0  # over which the speed is taken: a few cells, because losses differ


class ComparisonDisplay(StepWatcher, Protocol):
    """A step watcher that is also told about cells."""

    def begin(self, done: int, total: int) -> None:
        """``done`` of ``total`` cells are there already."""

    def on_cell(self, loss: str, seed: int) -> None:
        """A cell begins."""

    def on_cell_done(self, cell: Cell) -> None:
        """A cell is finished or has failed."""

    def close(self) -> None:
        """No more cells; leave the terminal as it was."""


def make_display(console: Console | None = None) -> ComparisonDisplay:
    """The bars where ``console`` is a terminal, plain lines where it is not."""
    console = console or Console()
    return BarDisplay(console) if console.is_terminal else LineDisplay()


class LineDisplay:
    """A line when a cell begins and one when it is done."""

    def __init__(self) -> None:
        self._at, self._kept, self._total = 0, 0, 0
        self._began = time.monotonic()

    def begin(self, done: int, total: int) -> None:
        """Print how much there is to do."""
        self._at, self._kept, self._total = done, done, total
        self._began = time.monotonic()
        print(f"{total} cells, {done} of them there already", flush=True)

    def on_cell(self, loss: str, seed: int) -> None:
        """Print which one begins."""
        print(f"{self._at + 1}/{self._total}  {loss}, seed {seed}", flush=True)

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Nothing: a line a cell is enough."""

    def on_chunk(self, done: int, total: int) -> None:
        """Small batches have one."""

    def on_note(self, text: str) -> None:
        """Print the note."""
        print(f"note: {text}", flush=True)

    def on_cell_done(self, cell: Cell) -> None:
        """Print what it came to, and the time left at this speed."""
        self._at += 1
        each = (time.monotonic() - self._began) / (self._at - self._kept)
        left = _clock(each * (self._total - self._at))
        print(f"{self._at}/{self._total}  {summary(cell)}; {left} left", flush=True)

    def close(self) -> None:
        """Nothing to restore."""


class BarDisplay:
    """A bar for all cells and one for the current one; what is done is printed above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            speed_estimate_period=_SPEED_SECONDS,
        )
        self._all: TaskID | None = None
        self._cell: TaskID | None = None
        self._done, self._kept, self._total = 0, 0, 0

    def begin(self, done: int, total: int) -> None:
        """Start drawing."""
        self._done, self._kept, self._total = done, done, total
        self._all = self._progress.add_task("all cells", total=total - done, count=f"{done}/{total}")
        self._progress.start()

    def on_cell(self, loss: str, seed: int) -> None:
        """Replace the bar of the cell."""
        if self._cell is not None:
            self._progress.remove_task(self._cell)
        self._cell = self._progress.add_task(f"{loss}, seed {seed}", total=None, count="")

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Move both bars."""
        if self._cell is None or self._all is None:
            return
        count = f"loss {record.loss:.4f}  {record.step}/{steps}"
        self._progress.update(self._cell, completed=record.step, total=steps, count=count)
        self._progress.update(self._all, completed=self._done - self._kept + record.step / steps)

    def on_chunk(self, done: int, total: int) -> None:
        """Small batches have one."""

    def on_note(self, text: str) -> None:
        """Print the note above the bars."""
        self._console.print(f"note: {text}", style="yellow", markup=False)

    def on_cell_done(self, cell: Cell) -> None:
        """Count it and print what it came to."""
        self._done += 1
        if self._all is not None:
            count = f"{self._done}/{self._total}"
            self._progress.update(self._all, completed=self._done - self._kept, count=count)
        self._console.print(summary(cell), markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()


def summary(cell: Cell) -> str:
    """A cell in one line."""
    name = f"{cell.loss}, seed {cell.seed}"
    if cell.recall is None or cell.nmi is None:
        return f"{name}: failed, {cell.failure}"
    return (
        f"{name}: R@1 {100 * cell.recall[1]:.1f} %, NMI {100 * cell.nmi:.1f} %, weights of step "
        f"{cell.best_step}, {cell.seconds:.0f} s"
    )


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
