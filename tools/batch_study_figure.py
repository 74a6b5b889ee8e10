"""The figure of the batch study: one form by itself, or forms of the loss one over the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.figures import FONTS, tick, write_svg

Row = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """Colours, readable on GitHub's background of that theme."""

    ink: str
    soft: str
    grid: str
    line: str
    other: str


LOOKS = {
    "": Look("#1f2328", "#59636e", "#d8dee4", "#177245", "#a3246f"),
    "-dark": Look("#e6edf3", "#9198a1", "#30363d", "#6fd09b", "#ee86c0"),
}
"""By what the file's name ends with."""


class Panel(NamedTuple):
    """One of the small figures."""

    title: str
    value: Callable[[Row], float]
    unit: str | None = None
    """Of a logarithmic axis, "ms" or "MB"; None: the axis is linear and begins at 0."""
    start: float | None = None
    """The value that all runs begin with."""


def write_figures(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Writes NAME.svg for light and NAME-dark.svg for dark pages."""
    for suffix, look in LOOKS.items():
        with matplotlib.rc_context(FONTS):
            write_svg(draw(look, found), folder / f"{name}{suffix}.svg")


def draw(look: Look, found: dict[str, Any]) -> Figure:
    """Three small panels over the batch.

    Of one form: Recall@1, memory of a step, share of the loss in its time. Of several: Recall@1, memory of a
    step, time of the loss, a line a form; a cross stands where a form does not fit into the memory.
    """
    rows = found["runs"]
    forms = list(dict.fromkeys(form_of(row) for row in rows))
    figure = Figure(figsize=(9.6, 3.1))
    single = len(forms) == 1
    figure.subplots_adjust(left=0.05, right=0.985, top=0.84, bottom=0.17, wspace=0.2 if single else 0.26)
    for place, panel in enumerate(_panels(rows, single), 1):
        axes = figure.add_subplot(1, 3, place)
        for form in forms:
            own = [row for row in rows if form_of(row) == form]
            _draw_line(axes, panel, [row for row in own if fits(row)], look, form == forms[0])
            if panel.unit is not None:
                _mark_end(axes, [row["batch"] for row in own if not fits(row)], look)
        _draw_axes(axes, panel, rows, look)
        if place == 1 and not single:
            axes.legend(forms, loc="lower left", frameon=False, fontsize=9, labelcolor=look.ink)
    return figure


def form_of(row: Row) -> str:
    """The form of the loss that a run was trained with."""
    return str(row.get("form", "fastdml"))


def fits(row: Row) -> bool:
    """Whether a run was made: the memory held it."""
    return bool(row.get("status", "complete") == "complete")


def _panels(rows: Sequence[Row], single: bool) -> tuple[Panel, ...]:
    start = 100 * mean(row["start_recall_at_1"] for row in rows)
    recall = Panel("Recall@1, unseen kanji, %", lambda row: 100 * row["recall"]["R@1"], start=start)
    memory = Panel("Memory that a step adds, MB", lambda row: (row["step_bytes"] or 0) / 1e6)
    if single:
        return recall, memory, Panel("The loss, % of a step's time", lambda row: 100 * row["share_of_loss"])
    return (
        recall,
        memory._replace(title="Memory that a step adds", unit="MB"),
        Panel("Time of the loss in a step", lambda row: 1e3 * row["step_seconds"]["loss"], "ms"),
    )


def _draw_line(axes: Any, panel: Panel, rows: Sequence[Row], look: Look, first: bool) -> None:
    """Means over the seeds; the first form wide, others narrow upon it, so that both are seen."""
    batches = sorted({row["batch"] for row in rows})
    every = [[panel.value(row) for row in rows if row["batch"] == batch] for batch in batches]
    style: dict[str, Any] = {"color": look.line, "linewidth": 2.2, "markersize": 4.5}
    if not first:
        style = {"color": look.other, "linewidth": 1.2, "markersize": 7.5, "markerfacecolor": "none"}
        style["linestyle"] = (0, (3, 2))
    axes.plot(batches, [mean(values) for values in every], marker="o", **style)
    if any(len(values) > 1 for values in every):
        low, high = [min(values) for values in every], [max(values) for values in every]
        axes.fill_between(batches, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _mark_end(axes: Any, batches: Sequence[int], look: Look) -> None:
    """A cross at the least batch that does not fit, at the height of the panel's top."""
    if not batches:
        return
    place = {"xy": (min(batches), 0.95), "xycoords": axes.get_xaxis_transform(), "color": look.other}
    axes.annotate("\N{MULTIPLICATION SIGN}", fontsize=13, ha="center", va="center", **place)
    axes.annotate("does not fit", fontsize=8.5, ha="right", va="center", xytext=(-7, 0),
                  textcoords="offset points", **place)  # fmt: skip


def _draw_axes(axes: Any, panel: Panel, rows: Sequence[Row], look: Look) -> None:
    batches = sorted({row["batch"] for row in rows})
    if panel.start is not None:
        axes.axhline(panel.start, color=look.soft, linewidth=1, linestyle=(0, (4, 2)))
        axes.text(batches[0], panel.start - 1, "where all start", color=look.soft, fontsize=8.5, va="top")
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [_short(batch) for batch in batches])
    axes.minorticks_off()
    if panel.unit is None:
        axes.set_ylim(0, 1.08 * max((panel.value(row) for row in rows if fits(row)), default=1))
    else:
        unit = panel.unit
        axes.set_yscale("log")
        axes.margins(y=0.18)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, unit)))
    axes.grid(True, axis="y", color=look.grid, linewidth=0.8)
    axes.tick_params(colors=look.soft, labelsize=8.5, length=0, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.set_xlabel("images a step", color=look.soft, fontsize=9)
    axes.set_title(panel.title, color=look.ink, fontsize=10.5, fontweight="bold", loc="left", pad=9)


def _short(batch: int) -> str:
    return f"{batch // 1024}k" if batch >= 1024 else str(batch)
