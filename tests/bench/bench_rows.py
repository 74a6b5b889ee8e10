"""Rows of results files as no run measured them."""

from __future__ import annotations

from typing import Any

from bench.results import Results, Row

HEADER = {
    "device": "a machine, 2 cores",
    "kind": "cpu",
    "commit": "0123456789abcdef",
    "dirty": False,
    "date": "2026-01-01T00:00:00+00:00",
    "fastdml": "0.1.0",
    "torch": "2.13.0",
    "protocol": "turns",
    "ceilings": {"sgemm": {"p20": 90.0, "p50": 100.0, "p80": 110.0, "unit": "GFLOP/s"}},
}


def row(provider: str, milliseconds: float | None, samples: int = 1024, **changes: Any) -> Row:
    """A row of time, both directions, D = 128."""
    figures = {"p20": milliseconds, "p50": milliseconds, "p80": milliseconds, "rounds": 5}
    if milliseconds is None:
        figures = {"status": "out of memory"}
    values = {
        "provider": provider,
        "direction": "both",
        "metric": "time",
        "N": samples,
        "D": 128,
        "dtype": "float32",
        "unit": "ms",
        "run": "first",
        **figures,
    }
    return Row(**{**values, **changes})


def results(*rows: Row, contest: str = "pair_multi_similarity", kind: str = "cpu") -> Results:
    """A file of two runs on one device."""
    header = {**HEADER, "kind": kind}
    return Results(contest, {"first": dict(header), "second": dict(header)}, rows)
