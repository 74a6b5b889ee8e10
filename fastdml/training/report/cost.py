"""What the run took: images a second, the time of a step by part, memory by part."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from fastdml.training.report.curves import Log, step_chart
from fastdml.training.report.elements import Bar, bar_list, card, side_by_side, stack
from fastdml.training.report.units import write_bytes, write_seconds
from fastdml.training.run_result import RunResult


def cost_section(result: RunResult, log: Log) -> str:
    """Speed over the steps, and bars of time and memory; empty where nothing of it was measured."""
    bars = []
    if result.time_by_part:
        note = f"Medians over the steps, {write_seconds(sum(result.time_by_part.values()))} together."
        bars.append(card(_shares(result.time_by_part, write_seconds), "Time of a step", note))
    if result.memory:
        note = "What a step takes at its peak is given back after it; the rest is held from step to step."
        peak = max((record.get("memory_bytes") or 0 for record in log), default=0)
        if peak:
            where = "of this process" if result.environment.device == "cpu" else "of the device"
            note += f" The peak {where}, all else included, was {write_bytes(peak)}."
        bars.append(card(_shares(result.memory, write_bytes), "Memory", escape(note)))
    cards = [stack(*bars)] if bars else []
    if log:
        speed = step_chart("Images a second", "images_per_second", log, "images a second", _whole)
        note = "Evaluations are not counted." + _waiting(result)
        cards.insert(0, card(speed, "Images a second", note))
    return side_by_side(*cards) if cards else ""


def _waiting(result: RunResult) -> str:
    """A sentence where the network waits for images; the remedy is known."""
    total = sum(result.time_by_part.values())
    share = result.time_by_part.get("waiting for images", 0.0) / total if total else 0.0
    if share < 0.1:
        return ""
    return f" {100 * share:.0f} % of a step is spent waiting for images: more workers read faster."


def _shares(parts: dict[str, float] | dict[str, int], write: Callable[[float], str]) -> str:
    most = max(parts.values()) or 1
    return bar_list(Bar(name, value / most, write(value)) for name, value in parts.items())


def _whole(value: float) -> str:
    return f"{value:.0f}"
