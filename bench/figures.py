"""Time and memory over N, one line a contestant, named at its end; drawn for light and for dark pages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.results import Row
from bench.tables import NAMES, OWN, amount, ordered

WIDTH, HEIGHT = 8.3, 4.6
LABEL_GAP = 15.0
"""Least distance of two labels, in points."""
FONTS: dict[Any, Any] = {"svg.hashsalt": "fastdml", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
TITLES = {"time": "Time of one batch", "memory": "Peak memory beyond inputs and gradients"}


@dataclass(frozen=True)
class Theme:
    """Colours of a page: ``lines`` by provider, all readable on GitHub's background of that theme."""

    ink: str
    soft: str
    grid: str
    lines: dict[str, str]


THEMES = {
    "light": Theme(
        "#1f2328",
        "#59636e",
        "#d8dee4",
        {
            "own": "#0b5cd5",
            "second": "#5b8def",
            "compiled": "#b35900",
            "blocked": "#0f7b6c",
            "dense": "#6e7781",
            "pml": "#a3246f",
        },
    ),
    "dark": Theme(
        "#e6edf3",
        "#9198a1",
        "#30363d",
        {
            "own": "#6cb0ff",
            "second": "#3f7fd0",
            "compiled": "#f0a35e",
            "blocked": "#4fc7b3",
            "dense": "#a5adb6",
            "pml": "#ee86c0",
        },
    ),
}
ALIASES = {"faiss-cpu": "pml", "topk": "blocked", "product": "compiled"}
MARKERS = {"own": "o", "second": "o", "compiled": "s", "blocked": "D", "dense": "^", "pml": "v"}


def draw(rows: Sequence[Row], metric: str, theme: str, path: Path) -> None:
    """Writes one figure as SVG; rows without a figure end their line, with a word for why."""
    look = THEMES[theme]
    with matplotlib.rc_context(FONTS):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        figure.subplots_adjust(left=0.085, right=0.775, top=0.9, bottom=0.125)
        axes = figure.add_subplot()
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        labels = [
            _draw_line(axes, provider, rows, look) for provider in ordered({row.provider for row in rows})
        ]
        _draw_axes(axes, rows, metric, look)
        _draw_labels(figure, axes, [label for label in labels if label is not None])
        write_svg(figure, path)


def write_svg(figure: Figure, path: Path) -> None:
    """Writes all or nothing, the same bytes for the same figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    figure.savefig(half, format="svg", transparent=True, metadata={"Date": None})
    os.replace(half, path)


@dataclass
class Label:
    """A line's name, beside its last point."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool


def _draw_line(axes: Any, provider: str, rows: Sequence[Row], look: Theme) -> Label | None:
    own = sorted((row for row in rows if row.provider == provider), key=lambda row: row.N)
    points = [row for row in own if row.p50 is not None]
    if not points:
        return None
    kind = ALIASES.get(provider, provider)
    if provider in OWN:
        kind = "second" if provider == "fastdml-cuda" else "own"
    colour, leading = look.lines[kind], kind == "own"
    x, y = [row.N for row in points], [max(row.p50 or 0.0, least(row)) for row in points]
    axes.plot(
        x,
        y,
        color=colour,
        marker=MARKERS[kind],
        linewidth=2.8 if leading else 1.7,
        markersize=6.5 if leading else 5,
        linestyle="-" if leading or kind != "second" else (0, (4, 2)),
        zorder=5 if leading else 3,
        clip_on=False,
    )
    low, high = [row.p20 or row.p50 for row in points], [row.p80 or row.p50 for row in points]
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    text = NAMES.get(provider, provider)
    if any(row.N > points[-1].N and row.status.startswith("out of memory") for row in own):
        text += "\nthen out of memory"
    return Label(x[-1], y[-1], text, colour, leading)


def least(row: Row) -> float:
    """The least that is drawn: zero has no place on a logarithmic axis, and half a megabyte is no more."""
    return 0.5 if row.metric == "memory" else 1e-6


def _draw_axes(axes: Any, rows: Sequence[Row], metric: str, look: Theme) -> None:
    sizes = sorted({row.N for row in rows if row.p50 is not None})
    unit = rows[0].unit if rows else ""
    shown = sizes if len(sizes) <= 9 else sizes[:: -(-len(sizes) // 9)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value):,}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, unit)))
    axes.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.06)
    axes.grid(True, color=look.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=look.soft, labelsize=9.5, length=0, pad=6)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(look.soft)
    axes.set_xlabel("N, samples a batch", color=look.soft, fontsize=10, labelpad=6)
    axes.set_title(TITLES[metric], color=look.ink, fontsize=12, fontweight="bold", loc="left", pad=12)


def tick(value: float, unit: str) -> str:
    """A figure at an axis."""
    text, name = amount(value, unit).split(" ")
    return f"{float(text):g} {name}"


def _draw_labels(figure: Figure, axes: Any, labels: list[Label]) -> None:
    """Names in a column right of the axes, level with the lines' ends unless they would touch."""
    figure.canvas.draw()
    points = 72.0 / figure.dpi
    column = axes.get_window_extent().x1 * points
    ends = [axes.transData.transform((label.x, label.y)) * points for label in labels]
    for label, end, level in zip(labels, ends, _spread(labels, [float(y) for _, y in ends]), strict=True):
        axes.annotate(
            "",
            xy=(end[0] + 6, end[1]),
            xytext=(column + 12, level),
            xycoords="figure points",
            textcoords="figure points",
            arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.9, "linestyle": (0, (1, 2))},
            annotation_clip=False,
        )
        axes.annotate(
            label.text,
            xy=(column + 15, level),
            xycoords="figure points",
            color=label.colour,
            fontsize=10.5,
            fontweight="bold" if label.bold else "normal",
            va="center",
            ha="left",
            linespacing=1.05,
            annotation_clip=False,
        )


def _spread(labels: Sequence[Label], heights: Sequence[float]) -> list[float]:
    """The heights, in points, moved apart until no label touches another."""
    levels = list(heights)
    order = sorted(range(len(levels)), key=levels.__getitem__)
    for _ in range(500):
        moved = False
        for below, above in pairwise(order):
            lines = 1 + (labels[below].text.count("\n") + labels[above].text.count("\n")) / 2
            overlap = LABEL_GAP * lines - (levels[above] - levels[below])
            if overlap > 0.01:
                levels[below] -= overlap / 2
                levels[above] += overlap / 2
                moved = True
        if not moved:
            break
    return levels
