"""index.html of a comparison, in the look of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastdml.training.comparison.cells import Cell
from fastdml.training.comparison.figure import PAGE, figure_style, recall_figure
from fastdml.training.comparison.published import ABOUT, TITLE, ranked
from fastdml.training.comparison.table import COLUMNS, Figure, Row, rows_of, within_spread
from fastdml.training.comparison.wording import machine_facts, protocol_points
from fastdml.training.report.elements import card, section
from fastdml.training.report.sections import write_span
from fastdml.training.report.style import STYLE

_OWN_STYLE = """
.losses td, .losses th { padding: 7px 7px; font-size: .92rem; }
.losses.known td:nth-child(2), .losses.known th:nth-child(2) { text-align: left; }
.losses td small { color: var(--soft); }
.losses td:first-child { font-weight: 600; }
.losses tr.failed td { color: var(--soft); white-space: normal; text-align: left; }
.losses td.bad { color: var(--bad); }
.points { display: grid; grid-template-columns: minmax(120px, 190px) 1fr; gap: 10px 20px; margin: 0; }
.points dt { font-weight: 600; }
.points dd { margin: 0; color: var(--soft); max-width: 80ch; }
@media (max-width: 760px) {
  .points { grid-template-columns: 1fr; gap: 2px; }
  .points dd { margin-bottom: 12px; }
}
"""


def render_page(header: Mapping[str, Any], cells: Sequence[Cell], to_come: int = 0) -> str:
    """The page as HTML with everything inside; no script, nothing to fetch.

    Args:
        header: what protocol.json holds.
        cells: all that there are.
        to_come: cells that were asked for and are not there.
    """
    rows = rows_of(cells)
    parts = [
        _headline(header, rows, len(cells), to_come),
        section("Recall@1", "", card(recall_figure(rows))),
        section(
            "The table",
            "In percent, mean ± standard deviation over n seeds, the highest Recall@1 first. Batch: classes "
            "by images of each. Best step: whose weights were kept, of all seeds. Time: mean of a seed.",
            card(
                f'<div class="scroll">{_table(rows, header["settings"]["batch"])}</div>', note=_uneven(rows)
            ),
        ),
        section(TITLE, ABOUT, card(f'<div class="scroll">{_published(rows)}</div>', note=_RANKS)),
        section("Protocol", "", card(_points(header))),
        section("Machine", "", card(_facts(header, cells))),
        '<footer class="small">Made by fastdml. Beside this page: protocol.json, cells (a file each), '
        "comparison.json, comparison.md, and the figure for light and dark pages.</footer>",
    ]
    style = STYLE + _OWN_STYLE + figure_style(PAGE)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{len(rows)} losses compared · fastdml</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


_RANKS = (
    "Ranks by Recall@1, among the losses of this table that were compared here; 1 is the highest. In the "
    "last column, Recall@1 of the table above."
)


def _headline(header: Mapping[str, Any], rows: Sequence[Row], cells: int, to_come: int) -> str:
    state, badge = (
        ("plain", f"{to_come} of {cells + to_come} cells to come") if to_come else ("good", "complete")
    )
    eyebrow = (
        f'<div class="eyebrow"><b>fastdml</b><span>comparison on {escape(str(header["settings"]["data"]))}'
        f'</span><span class="badge {state}">{badge}</span></div>'
    )
    if not rows or not rows[0].figures:
        return f"<header>{eyebrow}<h1>No loss has finished yet.</h1></header>"
    best, settings = rows[0], header["settings"]
    near = [row.loss for row in within_spread(rows)]
    spread = f"The spread over seeds does not tell it from: {', '.join(near)}. " if near else ""
    return (
        f'<header>{eyebrow}<div class="headline"><div class="number">{100 * best.recall_at_1:.1f}'
        f"<small>%</small></div><div><h1>Recall@1 of {escape(best.loss)}, the highest of {len(rows)} losses "
        f"under one protocol, on {header['classes']['test']} classes that training never saw.</h1>"
        f"<p>{escape(spread)}Same network, same {settings['steps']} steps of {settings['batch']} images, "
        "fixed hyper-parameters; the checkpoint chosen on held-out training classes.</p></div></div></header>"
    )


def _table(rows: Sequence[Row], batch: int) -> str:
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(_loss_row(row, batch, row is rows[0]) for row in rows)
    return (
        f'<table class="losses"><thead><tr><th>loss</th>{head}<th>n</th><th>batch</th>'
        f"<th>best step</th><th>time</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _loss_row(row: Row, batch: int, first: bool) -> str:
    if not row.figures:
        text = (
            f'<td>{escape(row.loss)}</td><td colspan="{len(COLUMNS) + 4}">failed; {escape(row.failures)}</td>'
        )
        return f'<tr class="failed">{text}</tr>'
    n = str(row.n)
    if row.failed:
        n += f' <span class="badge bad" title="{escape(row.failures)}">{len(row.failed)} failed</span>'
    steps = row.best_steps
    span = str(steps[0]) if min(steps) == max(steps) else f"{min(steps)}&ndash;{max(steps)}"
    figures = "".join(f"<td>{_figure(row.figures[name])}</td>" for name in COLUMNS)
    return (
        f"<tr{' class=best' if first else ''}><td>{escape(row.loss)}</td>{figures}<td>{n}</td>"
        f"<td>{batch // row.samples_per_class} &times; {row.samples_per_class}</td><td>{span}</td>"
        f"<td>{write_span(row.seconds or 0.0)}</td></tr>"
    )


def _figure(figure: Figure) -> str:
    value, _, spread = str(figure).partition(" ")
    return f"{value} <small>{spread}</small>" if spread else value


def _uneven(rows: Sequence[Row]) -> str:
    if len({row.n for row in rows}) == 1:
        return ""
    return "Losses with different n are compared over different seeds."


def _published(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(
        f"<tr><td>{escape(one.published.name)}</td><td>{escape(one.published.loss)}</td>"
        + "".join(f"<td>{_or_dash(value)}</td>" for value in one.published.figures)
        + f"<td>{_or_dash(one.rank_there)}</td><td>{_or_dash(one.rank_here)}</td>"
        f"<td>{'-' if one.recall_here is None else f'{100 * one.recall_here:.1f}'}</td></tr>"
        for one in ranked(rows)
    )
    return (
        f'<table class="losses known"><thead><tr><th>published as</th><th>name here</th>{head}'
        f"<th>rank there</th><th>rank here</th><th>R@1 here</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _points(header: Mapping[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in protocol_points(header)
    )
    return f'<dl class="points">{items}</dl>'


def _facts(header: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
        for name, value in machine_facts(header, cells)
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _or_dash(value: float | None) -> str:
    return "-" if value is None else str(value)
