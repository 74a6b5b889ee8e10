"""Line charts as inline SVG: they follow the page's colours, scale with it and need no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

_WIDTH, _HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 34, 46
_LABEL_GAP = 15  # least distance between the labels of two lines


@dataclass(frozen=True)
class Series:
    """A line: points (x, y), a name, and the number of its colour in the page's style (1, 2, ...).

    ``marks`` draws a dot with a tooltip at each point; ``faint`` draws a thin pale line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 1
    marks: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: its title, the range it shows, its ticks and how to write them; linear or ``log``."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    write: Callable[[float], str]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands on the axis, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(
    title: str, low: float, high: float, write: Callable[[float], str] | None = None, count: int = 5
) -> Axis:
    """A linear axis over at least [low, high] with about ``count`` ticks at round numbers."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [i * step for i in range(first, max(last, first + 1) + 1)]
    return Axis(title, ticks[0], ticks[-1], ticks, write or (lambda value: f"{value:g}"))


def log_axis(title: str, values: Sequence[float], write: Callable[[float], str], base: float = 10.0) -> Axis:
    """A logarithmic axis over the powers of ``base`` that enclose ``values`` (all above 0)."""
    low = math.floor(math.log(min(values), base) + 1e-9)
    high = max(math.ceil(math.log(max(values), base) - 1e-9), low + 1)
    ticks = [base**power for power in range(low, high + 1)]
    return Axis(title, ticks[0], ticks[-1], ticks, write, log=True)


def value_axis(title: str, ticks: Sequence[float], write: Callable[[float], str]) -> Axis:
    """A logarithmic axis whose ticks are the measured values themselves, such as batch sizes."""
    low, high = min(ticks), max(ticks)
    return Axis(title, low, high if high > low else 2 * low, ticks, write, log=True)


def line_chart(name: str, x: Axis, y: Axis, series: Sequence[Series], note: Callable[[float], str]) -> str:
    """An SVG figure. ``name`` is read out in its place; ``note`` writes a y value in a tooltip."""
    right = _RIGHT + max((_text_width(line.name) for line in series if not line.faint), default=0)
    plot = _Plot(x, y, right)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">',
        plot.grid(),
    ]
    parts += [plot.line(line, note) for line in series]
    parts.append(plot.end_labels([line for line in series if not line.faint]))
    parts.append("</svg>")
    return "".join(parts)


class _Plot:
    """The frame of a chart: where values lie in it."""

    def __init__(self, x: Axis, y: Axis, right: float) -> None:
        self.x_axis, self.y_axis = x, y
        self.left, self.right = _LEFT, _WIDTH - right
        self.top, self.bottom = _TOP, _HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        return self.left + self.x_axis.share(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.y_axis.share(value) * (self.bottom - self.top)

    def grid(self) -> str:
        parts = []
        for tick in self.y_axis.ticks:
            y = self.y(tick)
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text class="tick" x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">'
                f"{escape(self.y_axis.write(tick))}</text>"
            )
        for tick in self.x_axis.ticks:
            parts.append(
                f'<text class="tick" x="{self.x(tick):.1f}" y="{self.bottom + 19}" text-anchor="middle">'
                f"{escape(self.x_axis.write(tick))}</text>"
            )
        middle = (self.left + self.right) / 2
        parts.append(
            f'<line class="axis" x1="{self.left}" x2="{self.right:.1f}" y1="{self.bottom}" '
            f'y2="{self.bottom}"/>'
            f'<text class="axis-title" x="{middle:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">'
            f"{escape(self.x_axis.title)}</text>"
            f'<text class="axis-title" x="{self.left}" y="14">{escape(self.y_axis.title)}</text>'
        )
        return "".join(parts)

    def line(self, line: Series, note: Callable[[float], str]) -> str:
        if not line.points:
            return ""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in line.points)
        style = "faint" if line.faint else "line"
        parts = [f'<polyline class="{style} c{line.colour}" points="{path}"/>']
        if line.marks:
            for x, y in line.points:
                tip = f"{line.name}: {note(y)} at {self.x_axis.write(x)}"
                parts.append(
                    f'<circle class="dot c{line.colour}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4">'
                    f"<title>{escape(tip)}</title></circle>"
                )
        return "".join(parts)

    def end_labels(self, lines: Sequence[Series]) -> str:
        """Each line's name at its end, moved apart where two ends are near."""
        ends = sorted(
            ((self.y(line.points[-1][1]), self.x(line.points[-1][0]), line) for line in lines if line.points),
            key=lambda end: end[0],
        )
        parts, lowest = [], -math.inf
        for y, x, line in ends:
            place = max(y, lowest + _LABEL_GAP)
            lowest = place
            parts.append(
                f'<text class="label c{line.colour}" x="{x + 9:.1f}" y="{place + 4:.1f}">'
                f"{escape(line.name)}</text>"
            )
        return "".join(parts)


def _text_width(text: str) -> float:
    return 7.4 * len(text)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Running mean over the last ``window`` values (fewer at the beginning)."""
    result, total = [], 0.0
    for position, value in enumerate(values):
        total += value
        if position >= window:
            total -= values[position - window]
        result.append(total / min(position + 1, window))
    return result


def thin(points: Sequence[tuple[float, float]], most: int = 600) -> list[tuple[float, float]]:
    """At most about ``most`` points that look the same: of equal shares of them the lowest and the highest.

    The first and the last point stay.
    """
    if len(points) <= most:
        return list(points)
    shares = most // 2
    edges = [round(i * len(points) / shares) for i in range(shares + 1)]
    kept = {0, len(points) - 1}
    for low, high in pairwise(edges):
        kept.add(min(range(low, high), key=lambda i: points[i][1]))
        kept.add(max(range(low, high), key=lambda i: points[i][1]))
    return [points[i] for i in sorted(kept)]
