"""Bars of every loss, fastdml's above that of pytorch-metric-learning; drawn for light and for dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.contests import CONTESTS
from bench.figures import FONTS, THEMES, TITLES, Theme, least, tick, write_svg
from bench.loss_tables import by_loss
from bench.results import Results, Row, Size
from bench.tables import NAMES, amount, short_status

BAR = 0.36
BARS = {"fastdml": ("own", 0.5 + BAR / 2), "pml": ("pml", 0.5 - BAR / 2)}
"""Colour and height in its loss's lane, by library."""


def draw_losses(results: Results, metric: str, size: Size, theme: str, path: Path) -> None:
    """Writes the figure of one size as SVG; a bar that is missing has a word for why in its place."""
    look = THEMES[theme]
    direction = CONTESTS[results.contest].whole
    lanes = {loss: view.find(metric, direction, size) for loss, view in by_loss(results).items()}
    lanes = {loss: rows for loss, rows in reversed(lanes.items()) if "fastdml" in rows}
    with matplotlib.rc_context(FONTS):
        figure = Figure(figsize=(8.3, 1.3 + 0.42 * len(lanes)))
        left = max(0.19, 0.011 * max(map(len, lanes), default=0))
        figure.subplots_adjust(left=left, right=0.93, top=1 - 0.55 / figure.get_figheight(), bottom=0.12)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        rows = [row for lane in lanes.values() for row in lane.values()]
        start = _draw_axes(axes, list(lanes), rows, look)
        axes.set_title(
            f"{TITLES[metric]}, N = {size.samples:,}, D = {size.width}",
            color=look.ink,
            fontsize=12,
            fontweight="bold",
            loc="left",
            pad=12,
        )
        for place, lane in enumerate(lanes.values()):
            for library, (kind, height) in BARS.items():
                _draw_bar(axes, lane.get(library), library, start, place + height, look.lines[kind])
        write_svg(figure, path)


def _draw_axes(axes: Any, losses: Sequence[str], rows: Sequence[Row], look: Theme) -> float:
    """Names, ticks and grid; returns where the bars start."""
    figures = [max(row.p50, least(row)) for row in rows if row.p50 is not None]
    start = min(figures, default=1.0) / 3
    axes.set_xlim(start, max(figures, default=1.0) * 2.5)
    axes.set_ylim(0, len(losses))
    axes.set_yticks([place + 0.5 for place in range(len(losses))], losses)
    unit = rows[0].unit if rows else ""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, unit)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True, axis="x", color=look.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", colors=look.soft, labelsize=9.5, length=0, pad=6)
    axes.tick_params(axis="y", colors=look.ink, labelsize=10.5, length=0, pad=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return start


def _draw_bar(axes: Any, row: Row | None, library: str, start: float, height: float, colour: str) -> None:
    if row is None:
        end, text = start, f"{NAMES[library]}: nothing to compare"
    elif row.p50 is None:
        end, text = start, f"{NAMES[library]}: {short_status(row.status)}"
    else:
        end, text = max(row.p50, least(row)), f"{NAMES[library]} {amount(row.p50, row.unit)}"
        axes.barh(height, end - start, left=start, height=BAR, color=colour, linewidth=0)
    axes.annotate(
        text,
        xy=(end, height),
        xytext=(5, 0),
        textcoords="offset points",
        color=colour,
        fontsize=9,
        va="center",
        ha="left",
        annotation_clip=False,
    )
