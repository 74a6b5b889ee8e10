"""Recall@1 of every loss as a figure: a line a loss, a dot a seed, the mean and its spread."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from fastdml.training.comparison.table import Row
from fastdml.training.report.charts import Axis, linear_axis

_WIDTH, _NAMES, _VALUES = 860, 208, 100  # pixels: the whole, the losses' names, the numbers at the end
_TOP, _LINE, _BOTTOM = 40, 23, 46
_KEY = 90.0  # where the key begins
_KINDS = ((False, "without learnt centres"), (True, "with learnt centres of classes"))


class Look(NamedTuple):
    """Colours: CSS values."""

    ink: str
    soft: str
    grid: str
    plain: str
    centres: str


PAGE = Look("var(--ink)", "var(--soft)", "var(--line)", "var(--c1)", "var(--c2)")
THEMES = {
    "light": Look("#1f2328", "#59636e", "#d8dee4", "#1f5fbf", "#c2571a"),
    "dark": Look("#e6edf3", "#9198a1", "#30363d", "#79aefc", "#f0975b"),
}


def recall_figure(rows: Sequence[Row]) -> str:
    """The figure as SVG to stand in a page that has `figure_style`; a failed loss says so."""
    height = _TOP + _LINE * len(rows) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dots" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-label="Recall@1 of every loss on unseen classes">',
        _key(),
    ]
    finished = [row for row in rows if row.figures]
    if finished:
        axis = _axis(finished)
        parts.append(_grid(axis, height))
        for at, row in enumerate(rows):
            y = _TOP + _LINE * (at + 0.5)
            parts.append(_name(row, y))
            parts.append(_dots(row, axis, y) if row.figures else _value("failed", "", y))
    return "".join([*parts, "</svg>"])


def standalone_figure(rows: Sequence[Row], theme: str) -> str:
    """The figure as an SVG file of its own; ``theme`` is a name in THEMES, the ground is transparent."""
    start, end = recall_figure(rows).split(">", 1)
    return f"{start}><style>{figure_style(THEMES[theme])}</style>{end}\n"


def figure_style(look: Look) -> str:
    """The rules of style that `recall_figure` needs."""
    return (
        ".dots { display: block; width: 100%; height: auto; "
        'font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; '
        "font-variant-numeric: tabular-nums; }"
        f".dots text {{ fill: {look.soft}; }} .dots .name, .dots .value {{ fill: {look.ink}; }}"
        f".dots .value tspan {{ fill: {look.soft}; }}"
        f".dots .grid {{ stroke: {look.grid}; stroke-width: 1; }}"
        ".dots .spread { stroke-width: 5; stroke-linecap: round; opacity: .32; }"
        ".dots .seed { opacity: .5; }"
        f".dots .plain {{ fill: {look.plain}; stroke: {look.plain}; }}"
        f".dots .centres {{ fill: {look.centres}; stroke: {look.centres}; }}"
    )


def _axis(rows: Sequence[Row]) -> Axis:
    values = [value for row in rows for value in (*_seeds(row), *_spread(row))]
    return linear_axis("Recall@1", max(min(values), 0.0), max(values), lambda v: f"{100 * v:.4g} %", count=8)


def _seeds(row: Row) -> list[float]:
    return [cell.recall[1] for cell in row.finished if cell.recall is not None]


def _spread(row: Row) -> tuple[float, float]:
    figure = row.figures["R@1"]
    deviation = figure.deviation or 0.0
    return max(figure.mean - deviation, 0.0), figure.mean + deviation


def _x(axis: Axis, value: float) -> float:
    return _NAMES + axis.share(value) * (_WIDTH - _NAMES - _VALUES)


def _key() -> str:
    parts, left = [], _KEY
    for centred, text in _KINDS:
        parts.append(
            f'<circle class="{_kind(centred)}" cx="{left + 5:.0f}" cy="14" r="4.5"/>'
            f'<text x="{left + 16:.0f}" y="18.5">{text}</text>'
        )
        left += 34 + 6.9 * len(text)
    parts.append(f'<text x="{left:.0f}" y="18.5">pale: each seed, and the standard deviation</text>')
    return "".join(parts)


def _grid(axis: Axis, height: int) -> str:
    bottom = height - _BOTTOM
    parts = []
    for tick in axis.ticks:
        x = _x(axis, tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{bottom + 4}"/>'
            f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{escape(axis.write(tick))}</text>'
        )
    middle = _NAMES + (_WIDTH - _NAMES - _VALUES) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{bottom + 41}" text-anchor="middle">'
        "Recall@1 on classes that training never saw</text>"
    )
    return "".join(parts)


def _name(row: Row, y: float) -> str:
    return (
        f'<line class="grid" x1="{_NAMES}" x2="{_WIDTH - _VALUES}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="name" x="{_NAMES - 14}" y="{y + 4.5:.1f}" text-anchor="end">{escape(row.loss)}</text>'
    )


def _dots(row: Row, axis: Axis, y: float) -> str:
    kind, figure = _kind(row.centred), row.figures["R@1"]
    parts = []
    if figure.deviation is not None:
        low, high = (_x(axis, value) for value in _spread(row))
        parts.append(
            f'<line class="spread {kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    parts += [
        f'<circle class="seed {kind}" cx="{_x(axis, seed):.1f}" cy="{y:.1f}" r="2"/>' for seed in _seeds(row)
    ]
    value, _, spread = str(figure).partition(" ")
    parts.append(
        f'<circle class="{kind}" cx="{_x(axis, figure.mean):.1f}" cy="{y:.1f}" r="4.5">'
        f"<title>{escape(row.loss)}: {figure} %, n = {row.n}</title></circle>{_value(value, spread, y)}"
    )
    return "".join(parts)


def _value(value: str, spread: str, y: float) -> str:
    return (
        f'<text class="value" x="{_WIDTH - _VALUES + 14}" y="{y + 4.5:.1f}">{value}'
        f"<tspan> {spread}</tspan></text>"
    )


def _kind(centred: bool) -> str:
    return "centres" if centred else "plain"
