"""The few pieces that every section is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape


def section(title: str, lead: str, body: str) -> str:
    """A section with its title, a sentence (may be empty) and its content (HTML)."""
    sentence = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{sentence}{body}</section>"


def card(body: str, title: str = "", note: str = "") -> str:
    """A card around some HTML, with a title above and a note (HTML) below where they are given."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    foot = f'<p class="small">{note}</p>' if note else ""
    return f'<div class="card">{head}{body}{foot}</div>'


def side_by_side(*bodies: str) -> str:
    """Pieces next to each other, below each other on a narrow screen."""
    return f'<div class="pair">{"".join(bodies)}</div>'


def stack(*bodies: str) -> str:
    """Pieces below each other, as one of those side by side."""
    return f'<div class="stack">{"".join(bodies)}</div>'


@dataclass(frozen=True)
class Bar:
    """A named bar: its length from 0 to 1, and what is written beside it; ``other``: the second colour."""

    name: str
    length: float
    value: str
    other: bool = False


def bar_list(bars: Iterable[Bar]) -> str:
    """Bars below each other."""
    rows = "".join(
        f"<span>{escape(bar.name)}</span>"
        f'<span class="bar{" other" if bar.other else ""}">'
        f'<i style="width:{100 * bar.length:.1f}%"></i></span>'
        f'<span class="share">{escape(bar.value)}</span>'
        for bar in bars
    )
    return f'<div class="bars">{rows}</div>'
