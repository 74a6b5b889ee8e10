"""Times and sizes as a person reads them."""

from __future__ import annotations

import math


def write_seconds(value: float) -> str:
    """A time with a fitting unit."""
    if value >= 1:
        return f"{_three(value)} s"
    if value >= 1e-3:
        return f"{_three(1e3 * value)} ms"
    return f"{_three(1e6 * value)} µs"


def write_bytes(value: float) -> str:
    """A size with a fitting decimal unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{_three(value / size)} {unit}"
    return f"{value:.0f} B"


def _three(value: float) -> str:
    """About three significant figures, never in exponent form."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    text = f"{value:.{min(digits, 2)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
