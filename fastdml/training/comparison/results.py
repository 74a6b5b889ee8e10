"""Write what a comparison has found: comparison.json, comparison.md, the figure and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastdml.training.comparison.cells import Cell
from fastdml.training.comparison.figure import THEMES, standalone_figure
from fastdml.training.comparison.folder import ComparisonFolder
from fastdml.training.comparison.page import render_page
from fastdml.training.comparison.published import ABOUT, TITLE, ranked
from fastdml.training.comparison.table import COLUMNS, Row, rows_of
from fastdml.training.comparison.wording import machine_facts, protocol_points

_PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="comparison-dark.svg">
  <img alt="Recall@1 of every loss on unseen classes" src="comparison-light.svg">
</picture>"""


def write_results(folder: ComparisonFolder, to_come: int = 0) -> None:
    """Make all results anew from the folder's protocol and cells.

    Args:
        to_come: cells that were asked for and are not there.
    """
    header, cells = folder.header(), folder.cells()
    rows = rows_of(cells)
    content = {
        "cells": len(cells),
        "to_come": to_come,
        "protocol": header,
        "losses": [row.to_dict() for row in rows],
        "published": {"title": TITLE, "about": ABOUT, "rows": [one.to_dict() for one in ranked(rows)]},
    }
    folder.write("comparison.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    folder.write("comparison.md", markdown(header, cells, to_come))
    for theme in THEMES:
        folder.write(f"comparison-{theme}.svg", standalone_figure(rows, theme))
    folder.write("index.html", render_page(header, cells, to_come))


def markdown(header: Mapping[str, Any], cells: Sequence[Cell], to_come: int) -> str:
    """comparison.md: the table, the published figures, the protocol."""
    rows = rows_of(cells)
    batch = header["settings"]["batch"]
    parts = [f"# {len(rows)} losses under one protocol, {header['settings']['data']}"]
    if to_come:
        parts.append(f"**Not complete: {to_come} of {len(cells) + to_come} cells are still to come.**")
    parts += [
        _PICTURE,
        "In percent, mean ± standard deviation over n seeds; a batch is classes x images of each.",
        _table(
            ["loss", "n", "batch", *COLUMNS, "best step", "seconds"],
            [_loss_cells(row, batch) for row in rows],
        ),
    ]
    failures = [f"- {row.loss}, {row.failures}" for row in rows if row.failed]
    if failures:
        parts += ["Failed:", "\n".join(failures)]
    parts += [
        f"## {TITLE}",
        ABOUT,
        _table(
            ["published as", "here", *COLUMNS, "rank there", "rank here"],
            [
                [
                    one.published.name.replace("_", "\\_"),
                    one.published.loss,
                    *(_or_dash(value) for value in one.published.figures),
                    _or_dash(one.rank_there),
                    _or_dash(one.rank_here),
                ]
                for one in ranked(rows)
            ],
        ),
        "## Protocol",
        "\n".join(f"- **{title}:** {text}" for title, text in protocol_points(header)),
        "## Machine",
        "\n".join(f"- {name}: {value}" for name, value in machine_facts(header, cells)),
    ]
    return "\n\n".join(parts) + "\n"


def _loss_cells(row: Row, batch: int) -> list[str]:
    division = f"{batch // row.samples_per_class} x {row.samples_per_class}"
    if not row.figures:
        return [row.loss, "failed", division, *("-" for _ in COLUMNS), "-", "-"]
    n = f"{row.n}, {len(row.failed)} failed" if row.failed else str(row.n)
    steps = ", ".join(map(str, row.best_steps))
    return [row.loss, n, division, *(str(row.figures[name]) for name in COLUMNS), steps, f"{row.seconds:.0f}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else str(value)
