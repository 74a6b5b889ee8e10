"""Draw the training curves of every loss under fastdml and under pytorch-metric-learning, one over the other.

    python -m tools.plot_curves --out docs/figures

Trains the built-in network on the built-in glyphs, twice for each loss and miner: same seed, same batches,
same names and arguments, another import; and once more with fastdml and gradients that are off by one
rounding error, which shows how far apart rounding alone takes two runs. Writes curves.json after every panel,
and from it curves-light.svg and curves-dark.svg. Panels that are there already are kept unless --again is
given; minutes in all on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine
from bench.figures import FONTS, write_svg
from fastdml.data import glyphs
from fastdml.training.config import TrainConfig
from tools.curve_training import LIBRARIES, PANELS, Curve, Panel, train

CONFIG = TrainConfig(steps=100, network_width=12, warmup_steps=10, learning_rate=5e-3)
COLUMNS = 4


class Look(NamedTuple):
    """Colours, readable on GitHub's background of that theme."""

    ink: str
    soft: str
    grid: str
    own: str
    other: str


LOOKS = {
    "light": Look("#1f2328", "#59636e", "#d8dee4", "#0b4aa8", "#f0a8d0"),
    "dark": Look("#e6edf3", "#9198a1", "#30363d", "#a8d0ff", "#8f3a6c"),
}


def measure(path: Path, names: Sequence[str], config: TrainConfig, again: bool) -> dict[str, Any]:
    """What curves.json holds, once it has every panel named and ``path`` is written."""
    settings = {
        name: value for name, value in config.to_dict().items() if name not in ("loss", "batch", "backend")
    }
    head = {"machine": machine.describe("cpu"), "settings": settings}
    found = json.loads(path.read_text()) if path.exists() and not again else {}
    kept = found.get("panels", {}) if found.get("settings") == settings else {}
    described = {name: json.loads(json.dumps(asdict(PANELS[name]))) for name in names}
    todo = [name for name in names if kept.get(name, {}).get("panel") != described[name]]
    if not todo:
        return found
    columns = TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=3 * config.steps * len(todo))
        for name in todo:
            progress.update(task, description=name)
            curves = _curves(PANELS[name], config, partial(progress.advance, task))
            kept[name] = {"panel": described[name], "commit": head["machine"]["commit"], **curves}
            found = {**head, "panels": {name: kept[name] for name in PANELS if name in kept}}
            _write(path, json.dumps(found, indent=1) + "\n")
    return found


def _curves(panel: Panel, config: TrainConfig, on_step: Callable[[], None]) -> dict[str, Any]:
    splits = glyphs.load("train"), glyphs.load("test")
    pml, own = (train(panel, library, config, *splits, on_step) for library in LIBRARIES)
    shaken = train(panel, "fastdml", config, *splits, on_step, shaken=True)
    return {
        "pml": _rounded(pml),
        "fastdml": _rounded(own),
        "largest_relative_difference": largest_difference(pml, own),
        "largest_relative_difference_by_rounding": largest_difference(shaken, own),
    }


def largest_difference(one: Curve, other: Curve) -> float:
    """The largest difference of two curves at any step, relative to the loss there."""
    a, b = (torch.tensor(curve.losses, dtype=torch.float64) for curve in (one, other))
    return float(f"{((a - b).abs() / torch.maximum(a, b).clamp_min(1e-12)).max().item():.3g}")


def _rounded(curve: Curve) -> dict[str, Any]:
    losses = [float(f"{loss:.7g}") for loss in curve.losses]
    return {**curve._asdict(), "losses": losses, "seconds": round(curve.seconds, 4)}


def draw(look: Look, panels: dict[str, Any]) -> Figure:
    """One small picture a panel, then the key."""
    rows = -(-(len(panels) + 1) // COLUMNS)
    height = 2.3 * rows + 0.3
    figure = Figure(figsize=(11.2, height))
    figure.subplots_adjust(
        left=0.042, right=0.985, top=1 - 0.6 / height, bottom=0.42 / height, hspace=0.72, wspace=0.2
    )
    for at, (name, found) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, COLUMNS, at + 1)
        _draw_panel(axes, look, name, found)
        if at + COLUMNS >= len(panels):
            axes.set_xlabel("step", color=look.soft, fontsize=9.5)
    _draw_key(figure.add_subplot(rows, COLUMNS, len(panels) + 1), look, panels)
    return figure


def _draw_panel(axes: Any, look: Look, name: str, found: dict[str, Any]) -> None:
    own, pml = found["fastdml"], found["pml"]
    steps = range(1, len(own["losses"]) + 1)
    axes.plot(steps, pml["losses"], color=look.other, linewidth=4.2, solid_joinstyle="round", zorder=3)
    axes.plot(steps, own["losses"], color=look.own, linewidth=1.1, solid_joinstyle="round", zorder=4)
    axes.set_xlim(0, len(steps))
    axes.margins(y=0.08)
    axes.locator_params(axis="x", nbins=2)
    axes.locator_params(axis="y", nbins=3)
    axes.grid(True, color=look.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=look.soft, labelsize=8.5, length=0, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.text(0, 1.2, name, transform=axes.transAxes, color=look.ink, fontsize=11, fontweight="bold")
    saved = f"loss time {_seconds(pml['seconds'], own['seconds'])}"
    recalls = "/".join(f"{100 * one['recall_at_1']:.0f}" for one in (pml, own))
    style: dict[str, Any] = {"transform": axes.transAxes, "color": look.soft, "fontsize": 8.8}
    axes.text(0, 1.065, saved, **style)
    axes.text(1, 1.065, f"R@1 {recalls} %", ha="right", **style)


def _draw_key(axes: Any, look: Look, panels: dict[str, Any]) -> None:
    axes.axis("off")
    lines = [
        Line2D([], [], color=look.other, linewidth=4.2),
        Line2D([], [], color=look.own, linewidth=1.1),
    ]
    axes.legend(
        lines, ("pytorch-metric-learning", "fastdml"), loc="upper left", bbox_to_anchor=(-0.03, 1.3),
        frameon=False, labelcolor=look.ink, fontsize=10.5, handlelength=1.8, borderpad=0, labelspacing=0.5,
    )  # fmt: skip
    pml, own = (sum(found[name]["seconds"] for found in panels.values()) for name in ("pml", "fastdml"))
    apart, rounding = (
        max(found[f"largest_relative_difference{of}"] for found in panels.values())
        for of in ("", "_by_rounding")
    )
    text = (
        "The loss of every batch in training: same seed, same batches,\n"
        "same names and arguments. Loss time is that of all steps, forward\n"
        f"and backward; of all panels together, {_seconds(pml, own)}.\n"
        "R@1 is Recall@1 after training, on classes that were not trained on.\n"
        f"The curves are at most {100 * apart:.0f} % apart at any step; two runs of fastdml,\n"
        f"{100 * rounding:.0f} %, where gradients are off by one rounding error."
    )
    axes.text(
        0, 0.82, text, transform=axes.transAxes, color=look.soft, fontsize=8.8, va="top", linespacing=1.35
    )


def _seconds(before: float, after: float) -> str:
    def shown(value: float) -> str:
        return f"{value:.{2 if value < 0.995 else 1 if value < 9.95 else 0}f}"

    return f"{shown(before)} → {shown(after)} s"


def write_figures(folder: Path, panels: dict[str, Any]) -> None:
    """Writes the figure for light and for dark pages."""
    for theme, look in LOOKS.items():
        with matplotlib.rc_context(FONTS):
            write_svg(draw(look, panels), folder / f"curves-{theme}.svg")


def _write(path: Path, text: str) -> None:
    half = path.with_suffix(".part")
    half.write_text(text)
    os.replace(half, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--again", action="store_true", help="train all panels anew")
    parser.add_argument("--steps", type=int, default=CONFIG.steps, help="fewer, for a look")
    parser.add_argument("--only", nargs="+", choices=PANELS, default=list(PANELS), metavar="PANEL")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    # filling counts as time of the losses
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    config = TrainConfig(**{**CONFIG.to_dict(), "steps": asked.steps})
    found = measure(asked.out / "curves.json", asked.only, config, asked.again)
    write_figures(asked.out, found["panels"])


if __name__ == "__main__":
    main()
