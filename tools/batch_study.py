"""Recall@1 against the size of the batch, at a fixed number of images.

    fastdml data make glyphs-large --out glyphs-large
    python -m tools.batch_study --data glyphs-large --out docs/figures

Every run goes on from the same network, which a short training with small batches has made, and sees the same
number of images; what differs is how many of them a step compares with each other. Multi-Similarity with
mining, 16 images a class, chunks of 256 by cached gradients, one learning rate for all. Every finished run is
kept under runs/batch-study and is not repeated; an interrupted one goes on. Writes batch-study.json and the
figure.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bench import machine
from bench.figures import FONTS, write_svg
from fastdml.training.config import TrainConfig
from fastdml.training.experiment import run_experiment
from fastdml.training.progress import make_display

BATCHES = (256, 512, 1024, 2048, 4096, 8192, 16384)
CHUNK, PER_CLASS = 256, 16
START_STEPS = 512
"""Of the network that all begin with, 256 images each."""


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    data: str
    budget: int = 20 * 16384
    width: int = 16
    rate: float = 5e-3
    device: str = "auto"
    precision: str = "fp32"

    def config(self, batch: int, steps: int, seed: int, weights: str | None) -> TrainConfig:
        """The settings of a run."""
        return TrainConfig(
            data=self.data,
            weights=weights,
            batch=batch,
            chunk=CHUNK,
            steps=steps,
            samples_per_class=PER_CLASS,
            network_width=self.width,
            learning_rate=self.rate,
            warmup_steps=max(1, steps // 20),
            evaluations=1,
            checkpoint_every=max(1, steps // 10),
            seed=seed,
            device=self.device,
            precision=self.precision,
        )


def run(config: TrainConfig, out: Path) -> dict[str, Any]:
    """What metrics.json of a run holds; one that is complete is read."""
    path = out / "metrics.json"
    if not (path.exists() and json.loads(path.read_text())["status"] == "complete"):
        run_experiment(config, out, make_display(), resume=out.exists(), panel_seconds=0)
    found: dict[str, Any] = json.loads(path.read_text())
    if found["status"] != "complete":
        raise SystemExit(f"{out}: {found['status']}; the same command goes on")
    return found


def measure(study: Study, folder: Path, batches: list[int], seeds: int) -> dict[str, Any]:
    """What batch-study.json holds."""
    rows = []
    for seed in range(seeds):
        start = folder / f"start-{seed}"
        first = run(study.config(256, START_STEPS, seed, None), start)
        weights = str(start / "weights.safetensors")
        for batch in batches:
            config = study.config(batch, study.budget // batch, seed, weights)
            found = run(config, folder / f"{batch}-{seed}")
            seconds = found["time_by_part"]
            rows.append({
                "batch": batch,
                "seed": seed,
                "steps": found["steps"],
                "start_recall_at_1": first["recall"]["trained"]["R@1"],
                "recall": found["recall"]["trained"],
                "map_at_r": found["map_at_r"],
                "training_seconds": found["seconds"]["training"],
                "step_seconds": seconds,
                "share_of_loss": seconds["loss"] / sum(seconds.values()),
                "step_bytes": found["memory"].get("one step"),
            })  # fmt: skip
    settings = {**vars(study), "data": Path(study.data).name, "chunk": CHUNK, "samples_per_class": PER_CLASS}
    device = "cpu" if study.device == "auto" and not _has_gpu() else study.device.replace("auto", "cuda")
    return {"machine": machine.describe(device.split(":")[0]), "settings": settings, "runs": rows}


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True)
class Look:
    """Colours, readable on GitHub's background of that theme."""

    ink: str
    soft: str
    grid: str
    line: str


LOOKS = {
    "batch-study.svg": Look("#1f2328", "#59636e", "#d8dee4", "#177245"),
    "batch-study-dark.svg": Look("#e6edf3", "#9198a1", "#30363d", "#6fd09b"),
}


def draw(look: Look, found: dict[str, Any]) -> Figure:
    """Three small panels over the batch: Recall@1, memory of a step, share of the loss in its time."""
    rows = found["runs"]
    batches = sorted({row["batch"] for row in rows})
    start = 100 * mean(row["start_recall_at_1"] for row in rows)
    panels = (
        ("Recall@1, unseen kanji, %", lambda row: 100 * row["recall"]["R@1"], start),
        ("Memory that a step adds, MB", lambda row: (row["step_bytes"] or 0) / 1e6, None),
        ("The loss, % of a step's time", lambda row: 100 * row["share_of_loss"], None),
    )
    figure = Figure(figsize=(9.6, 3.1))
    figure.subplots_adjust(left=0.05, right=0.985, top=0.84, bottom=0.17, wspace=0.2)
    for place, (title, value, reference) in enumerate(panels, 1):
        axes = figure.add_subplot(1, 3, place)
        every = [[value(row) for row in rows if row["batch"] == batch] for batch in batches]
        axes.plot(batches, [mean(values) for values in every], color=look.line, linewidth=2.2, marker="o",
                  markersize=4.5)  # fmt: skip
        if any(len(values) > 1 for values in every):
            low, high = [min(values) for values in every], [max(values) for values in every]
            axes.fill_between(batches, low, high, color=look.line, alpha=0.18, linewidth=0)
        if reference is not None:
            axes.axhline(reference, color=look.soft, linewidth=1, linestyle=(0, (4, 2)))
            axes.text(batches[0], reference - 1, "where all start", color=look.soft, fontsize=8.5, va="top")
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [_short(batch) for batch in batches])
        axes.minorticks_off()
        axes.set_ylim(0, 1.08 * max(max(values) for values in every))
        axes.grid(True, axis="y", color=look.grid, linewidth=0.8)
        axes.tick_params(colors=look.soft, labelsize=8.5, length=0, pad=4)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_facecolor("none")
        axes.set_xlabel("images a step", color=look.soft, fontsize=9)
        axes.set_title(title, color=look.ink, fontsize=10.5, fontweight="bold", loc="left", pad=9)
    return figure


def _short(batch: int) -> str:
    return f"{batch // 1024}k" if batch >= 1024 else str(batch)


def write_figures(folder: Path, found: dict[str, Any]) -> None:
    """Writes the figure for light and for dark pages."""
    for name, look in LOOKS.items():
        with matplotlib.rc_context(FONTS):
            write_svg(draw(look, found), folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of glyphs-large")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--runs", type=Path, default=Path("runs/batch-study"))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="with commas between them")
    parser.add_argument("--budget", type=int, default=Study.budget, help="images of every run")
    parser.add_argument("--width", type=int, default=Study.width, help="of the network")
    parser.add_argument("--rate", type=float, default=Study.rate)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--redraw", action="store_true", help="draw what was measured before")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "batch-study.json"
    if not asked.redraw:
        study = Study(asked.data, asked.budget, asked.width, asked.rate, asked.device, asked.precision)
        found = measure(study, asked.runs, [int(one) for one in asked.batches.split(",")], asked.seeds)
        path.write_text(json.dumps(found, indent=1) + "\n")
    write_figures(asked.out, json.loads(path.read_text()))


if __name__ == "__main__":
    main()
