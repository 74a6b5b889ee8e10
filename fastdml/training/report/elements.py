"""The few pieces that every section is made of."""

from __future__ import annotations

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
