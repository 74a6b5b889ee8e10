"""The section on settings, machine and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastdml.training.report.elements import card, side_by_side
from fastdml.training.run_result import RunResult

_UNSET = {
    "seconds": "no limit",
    "backend": "the best that can run",
    "chunk": "all that a process has of a batch",
    "image_size": "224, or as stored in memory",
    "workers": "by the number of cores",
    "center_rate": "as the catalogue has it",
    "weights": "none, as it is made",
}


def facts(result: RunResult, command: str) -> str:
    """Settings, environment, the seconds of each part of the run, and the command that repeats it."""
    environment = result.environment
    settings = [
        (name.replace("_", " "), _setting(name, value)) for name, value in result.config.to_dict().items()
    ]
    machine = [
        ("fastdml", environment.fastdml),
        ("backend of the loss", f"{environment.backend} ({environment.backend_reason})"),
        ("torch", environment.torch),
        ("Python", environment.python),
        ("system", environment.system),
        ("processor", environment.processor),
        ("cores, threads used", f"{environment.cores}, {environment.threads}"),
        ("device", environment.device),
        ("processes", str(result.world_size)),
        ("network", f"{result.parameters:,} parameters".replace(",", " ")),
    ]
    times = [(name, f"{value:.1f} s") for name, value in result.seconds.items()]
    half = (len(settings) + 1) // 2
    return (
        card(side_by_side(_table(settings[:half]), _table(settings[half:])), "Settings")
        + side_by_side(card(_table(machine), "Machine"), card(_table(times), "Time of the whole run"))
        + card(f"<p>{_again(result)} <code>{escape(command)}</code></p>")
    )


def _again(result: RunResult) -> str:
    if result.outcome.stopped_by == "steps" and not result.outcome.replanned:
        return "The same again, to the last digit on the same machine and versions:"
    return "The same settings again (this run was ended or planned by the clock or by hand):"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def _setting(name: str, value: Any) -> str:
    if value is None:
        return _UNSET.get(name, "none")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
