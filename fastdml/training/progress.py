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
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fastdml.training.records import StepRecord, StepWatcher

_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 48
_CHUNK_WIDTH = 24
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
        self._last_line = time.monotonic()
        self._pace = _Pace()
        self._recall: float | None = None

    def on_phase(self, text: str) -> None:
        """Print the phase."""
        print(text, flush=True)

    def on_note(self, text: str) -> None:
        """Print the note."""
        print(f"note: {text}", flush=True)

    def on_chunk(self, done: int, total: int) -> None:
        """Print how far a long step is, if enough time has passed since the last line."""
        if done < total and self._is_due():
            print(f"step {self._pace.step + 1}: {done} of {total} chunks", flush=True)

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Print the step if it is the first or the last, or enough time has passed since the last line."""
        is_first = not self._pace.started
        left = self._pace.seconds_left(record, steps)
        if not (self._is_due() or is_first or record.step == steps):
            return
        parts = [
            f"step {record.step:>{len(str(steps))}}/{steps}",
            f"loss {record.loss:.4f}",
            f"gradient {record.gradient_norm:.3g}",
            f"{record.images_per_second:.0f} images/s",
            f"loss takes {_short_time(record.loss_seconds)}",
        ]
        if record.memory_bytes:
            parts.append(_short_size(record.memory_bytes))
        if self._recall is not None:
            parts.append(f"R@1 {100 * self._recall:.1f} %")
        print("  ".join([*parts, f"{_clock(left)} left"]), flush=True)

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Print the recall."""
        self._recall = recall[1]
        print(f"step {step}  {_recall_text(recall)}", flush=True)

    def close(self) -> None:
        """Nothing to restore."""

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < self._every:
            return False
        self._last_line = now
        return True


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
        self._pace = _Pace()
        self._left = 0.0
        self._losses: list[float] = []
        self._recall: float | None = None
        self._chunks = (0, 0)  # done, total
        self._live = Live(console=console, refresh_per_second=8, transient=False, get_renderable=self._draw)
        self._started = False

    def on_phase(self, text: str) -> None:
        """Print the phase above the display."""
        self._console.print(Text(text, style="bold"))

    def on_note(self, text: str) -> None:
        """Print the note above the display."""
        self._console.print(Text(f"note: {text}", style="yellow"))

    def on_chunk(self, done: int, total: int) -> None:
        """Show how far the step under way is."""
        self._chunks = (done, total)
        self._start()

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Update the numbers."""
        self._start()
        self._record, self._chunks = record, (0, 0)
        self._left = self._pace.seconds_left(record, steps)
        self._losses.append(record.loss)
        if self._task is not None:
            self._bar.update(self._task, completed=record.step, total=steps)
        if record.step == steps:
            self._stop()

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Remember Recall@1 for the display."""
        self._recall = recall[1]
        if not self._started:
            self._console.print(_recall_text(recall))

    def close(self) -> None:
        """Stop redrawing."""
        self._stop()

    def _start(self) -> None:
        if self._task is None:
            self._task = self._bar.add_task("training", total=None)
        if not self._started:
            self._started = True
            self._live.start()

    def _stop(self) -> None:
        if self._started:
            self._live.refresh()
            self._live.stop()
            self._started = False

    def _draw(self) -> Panel:
        rows: list[Progress | Table | Text] = [self._bar]
        if self._record is not None:
            rows.append(self._numbers(self._record))
        if 0 < self._chunks[0] < self._chunks[1]:
            rows.append(_chunk_bar(*self._chunks))
        rows.append(Text(sparkline(self._losses, _SPARK_WIDTH), style="cyan"))
        return Panel(Group(*rows))

    def _numbers(self, record: StepRecord) -> Table:
        recall = f"{100 * self._recall:.1f} %" if self._recall is not None else "-"
        memory = _short_size(record.memory_bytes) if record.memory_bytes else "-"
        numbers = Table.grid(expand=True, padding=(0, 2))
        for _ in range(4):
            numbers.add_column()
        numbers.add_row(
            f"loss [bold cyan]{record.loss:.4f}[/]",
            f"Recall@1 [bold green]{recall}[/]",
            f"[bold]{record.images_per_second:.0f}[/] images/s",
            f"[bold]{_clock(self._left)}[/] left",
        )
        numbers.add_row(
            f"gradient [bold]{record.gradient_norm:.3g}[/]",
            f"loss takes [bold]{_short_time(record.loss_seconds)}[/]",
            f"memory [bold]{memory}[/]",
            f"waits [bold]{_short_time(record.data_seconds)}[/] for images",
        )
        return numbers


class _Pace:
    """How long a step takes on average since this process began to count them; a resumed run starts late."""

    def __init__(self) -> None:
        self.step = 0
        self._first: StepRecord | None = None

    @property
    def started(self) -> bool:
        return self._first is not None

    def seconds_left(self, record: StepRecord, steps: int) -> float:
        """Seconds from ``record`` to the last of ``steps``."""
        self.step = record.step
        if self._first is None:
            self._first = record
        first = self._first
        seconds = record.seconds - first.seconds + first.step_seconds
        return seconds / (record.step - first.step + 1) * (steps - record.step)


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


def _chunk_bar(done: int, total: int) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row("this step", ProgressBar(total, done, width=_CHUNK_WIDTH), f"{done} of {total} chunks")
    return row


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _short_time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _short_size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _recall_text(recall: Mapping[int, float]) -> str:
    return "  ".join(f"R@{k} {100 * value:.1f} %" for k, value in recall.items())
