"""From cells to a table: mean and standard deviation of every loss over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from fastdml.training.comparison.cells import Cell
from fastdml.training.evaluation import KS

COLUMNS = (*(f"R@{k}" for k in KS), "NMI")


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, in [0, 1], with its standard deviation (of the sample; None for one seed)."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Mean and deviation of at least one value."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Row:
    """A loss of the table.

    ``finished`` and ``failed`` are its cells, by seed; ``figures`` maps the names in COLUMNS to means over
    the finished ones, and is empty without any.
    """

    loss: str
    finished: tuple[Cell, ...]
    failed: tuple[Cell, ...]
    figures: dict[str, Figure]

    @property
    def n(self) -> int:
        """Number of seeds behind the figures."""
        return len(self.finished)

    @property
    def centred(self) -> bool:
        """Whether the loss has centres of classes."""
        return (*self.finished, *self.failed)[0].center_rate is not None

    @property
    def samples_per_class(self) -> int:
        """Images of each class in a batch."""
        return (*self.finished, *self.failed)[0].samples_per_class

    @property
    def best_steps(self) -> list[int]:
        """The step whose weights were kept, of each finished cell."""
        return [cell.best_step for cell in self.finished if cell.best_step is not None]

    @property
    def seconds(self) -> float | None:
        """Mean time of a finished cell; None without any."""
        return fmean(cell.seconds for cell in self.finished) if self.finished else None

    @property
    def recall_at_1(self) -> float:
        """What the table is sorted by; -1 without a finished cell."""
        return self.figures["R@1"].mean if self.figures else -1.0

    @property
    def failures(self) -> str:
        """The failed seeds and why, for a sentence; empty without any."""
        return "; ".join(f"seed {cell.seed}: {cell.failure}" for cell in self.failed)

    def to_dict(self) -> dict[str, Any]:
        """For comparison.json."""
        return {
            "loss": self.loss,
            "n": self.n,
            "seeds": [cell.seed for cell in self.finished],
            "failed": [{"seed": cell.seed, "reason": cell.failure} for cell in self.failed],
            "centres": self.centred,
            "samples_per_class": self.samples_per_class,
            **{
                name: {"mean": figure.mean, "standard_deviation": figure.deviation}
                for name, figure in self.figures.items()
            },
            "best_steps": self.best_steps,
            "seconds": self.seconds,
        }


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """A row a loss, the highest mean Recall@1 first; losses of which every cell failed come last."""
    by_loss: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        by_loss.setdefault(cell.loss, []).append(cell)
    rows = [_row(loss, found) for loss, found in by_loss.items()]
    return sorted(rows, key=lambda row: (-row.recall_at_1, row.loss))


def within_spread(rows: Sequence[Row]) -> list[Row]:
    """The rows after the first whose mean Recall@1 is nearer to its than their two deviations together."""
    if not rows or not rows[0].figures:
        return []
    first = rows[0].figures["R@1"]
    return [
        row
        for row in rows[1:]
        if row.figures
        and first.mean - row.recall_at_1 < (first.deviation or 0) + (row.figures["R@1"].deviation or 0)
    ]


def _row(loss: str, cells: Sequence[Cell]) -> Row:
    finished = tuple(cell for cell in cells if cell.recall is not None)
    figures = {}
    if finished:
        for k in KS:
            figures[f"R@{k}"] = Figure.of([(cell.recall or {})[k] for cell in finished])
        figures["NMI"] = Figure.of([cell.nmi for cell in finished if cell.nmi is not None])
    return Row(loss, finished, tuple(cell for cell in cells if cell.recall is None), figures)
