"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from fastdml.training.loop import StepRecord, StepWatcher

_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 48
_PLAIN_SECONDS = 5.0


class Display(StepWatcher, Protocol):
    """A step watcher that is also told about the phases around training."""

    def on_phase(self, text: str) -> None:
        """A new part of the run begins."""

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Recall@K (K -> share) was measured after ``step`` steps."""

    def close(self) -> None:
        """The run is over; leave the terminal as it was."""


def make_display(console: Console | None = None) -> Display:
    """The live display where ``console`` is a terminal, plain lines where it is not."""
    console = console or Console()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay()


class PlainDisplay:
    """A line at the first step, then every few seconds, and one for each evaluation."""

    def __init__(self, every: float = _PLAIN_SECONDS) -> None:
        self._every = every
        self._last = -float("inf")

    def on_phase(self, text: str) -> None:
        """Print the phase."""
        print(text, flush=True)

    def on_note(self, text: str) -> None:
        """Print the note."""
        print(f"note: {text}", flush=True)

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Print the step if enough time has passed since the last line."""
        now = time.monotonic()
        if record.step < steps and now - self._last < self._every:
            return
        self._last = now
        print(
            f"step {record.step:>{len(str(steps))}}/{steps}  loss {record.loss:.4f}  "
            f"{record.images_per_second:.0f} images/s  {_clock(_time_left(record, steps))} left",
            flush=True,
        )

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Print the recall."""
        print(f"step {step}  {_recall_text(recall)}", flush=True)

    def close(self) -> None:
        """Nothing to restore."""


class LiveDisplay:
    """A bar, the numbers of the last step and the loss as a line of blocks, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._record: StepRecord | None = None
        self._steps = 0
        self._losses: list[float] = []
        self._recalls: list[tuple[int, float]] = []
        self._live = Live(console=console, refresh_per_second=8, transient=False, get_renderable=self._draw)
        self._started = False

    def on_phase(self, text: str) -> None:
        """Print the phase above the display."""
        self._console.print(Text(text, style="bold"))

    def on_note(self, text: str) -> None:
        """Print the note above the display."""
        self._console.print(Text(f"note: {text}", style="yellow"))

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Update the numbers."""
        if self._task is None:
            self._task = self._bar.add_task("training", total=steps)
        self._record, self._steps = record, steps
        self._losses.append(record.loss)
        self._bar.update(self._task, completed=record.step, total=steps)
        if not self._started:
            self._started = True
            self._live.start()
        if record.step == steps:
            self._stop()

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Remember Recall@1 for the display."""
        self._recalls.append((step, recall[1]))
        if not self._started:
            self._console.print(_recall_text(recall))

    def close(self) -> None:
        """Stop redrawing."""
        self._stop()

    def _stop(self) -> None:
        if self._started:
            self._live.refresh()
            self._live.stop()
            self._started = False

    def _draw(self) -> Panel:
        record = self._record
        numbers = Table.grid(expand=True, padding=(0, 2))
        for _ in range(5):
            numbers.add_column()
        if record is not None:
            recall = f"{100 * self._recalls[-1][1]:.1f} %" if self._recalls else "-"
            numbers.add_row(
                f"loss [bold cyan]{record.loss:.4f}[/]",
                f"Recall@1 [bold green]{recall}[/]",
                f"[bold]{record.images_per_second:.0f}[/] images/s",
                f"loss takes [bold]{1000 * record.loss_seconds:.1f} ms[/]",
                f"[bold]{_clock(_time_left(record, self._steps))}[/] left",
            )
        return Panel(Group(self._bar, numbers, Text(sparkline(self._losses, _SPARK_WIDTH), style="cyan")))


def sparkline(values: list[float], width: int) -> str:
    """The values as at most ``width`` block characters, each the mean of an equal share of them."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    lowest, highest = min(means), max(means)
    span = (highest - lowest) or 1.0
    return "".join(_BARS[round((value - lowest) / span * (len(_BARS) - 1))] for value in means)


def _time_left(record: StepRecord, steps: int) -> float:
    return record.seconds / record.step * (steps - record.step)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _recall_text(recall: Mapping[int, float]) -> str:
    return "  ".join(f"R@{k} {100 * value:.1f} %" for k, value in recall.items())
