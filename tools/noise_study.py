"""Measure what wrong labels cost the triplet loss and FAT, and what distilling them saves.

    python -m tools.noise_study --out docs/figures

Trains the built-in network on the built-in glyphs with 20 % wrong ids planted among the training labels, and
without, by the triplet loss and by FAT, and by FAT with the labels that a teacher distils; several seeds.
Recall@1 is that on unseen classes, whose labels are right. Every finished run is kept under runs/noise-study
and is not repeated; about 25 minutes on two CPU cores. Writes noise-study.json and prints the table of
docs/noisy-labels.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench import machine
from fastdml.training.catalogue import find_loss
from fastdml.training.config import TrainConfig
from fastdml.training.experiment import run_experiment
from fastdml.training.progress import PlainDisplay

RATE, STEPS, SEEDS = 0.2, 400, 3
ARMS: dict[str, dict[str, Any]] = {
    "triplet": {"loss": "triplet"},
    "triplet, noise": {"loss": "triplet", "noise": RATE},
    "FAT": {"loss": "fat"},
    "FAT, noise": {"loss": "fat", "noise": RATE},
    "FAT, noise, distilled": {"loss": "fat", "noise": RATE, "distill": True},
}
LOSSES = {"triplet": "triplet", "FAT": "FAT", "FAT, distilled": "FAT"}
"""Rows of the table, by the arm without noise that each is held against."""


def run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """What one run found; one that is there already is read."""
    out = folder / f"{name.replace(', ', '-').lower()}-{seed}"
    if not _is_complete(out):
        samples = find_loss(ARMS[name]["loss"]).samples_per_class
        config = TrainConfig(steps=STEPS, evaluations=2, seed=seed, samples_per_class=samples, **ARMS[name])
        overwrite = out.exists() and not config.distill  # a teacher goes on where it was
        run_experiment(
            config, out, PlainDisplay(), overwrite=overwrite, resume=config.distill, panel_seconds=0
        )
    metrics = json.loads((out / "metrics.json").read_text())
    if metrics["status"] != "complete":
        raise SystemExit(f"{out} was not finished: {metrics['status']}")
    found = metrics["labels"] or {}
    return {
        "arm": name,
        "seed": seed,
        "recall_at_1": metrics["recall"]["trained"]["R@1"],
        "untrained": metrics["recall"]["untrained"]["R@1"],
        "labels": found.get("distilled"),
    }


def _is_complete(out: Path) -> bool:
    path = out / "metrics.json"
    return path.exists() and json.loads(path.read_text())["status"] == "complete"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: Recall@1 without and with noise, mean and deviation over seeds, and what is lost."""
    lines = ["| trained by | clean labels | 20 % wrong ids | lost |", "|---|---|---|---|"]
    for row, clean in LOSSES.items():
        noisy = f"{clean}, noise" + (", distilled" if row.endswith("distilled") else "")
        lost = mean(_of(rows, clean)) - mean(_of(rows, noisy))
        lines.append(f"| {row} | {_shown(rows, clean)} | {_shown(rows, noisy)} | {100 * lost:.1f} |")
    return lines


def _of(rows: list[dict[str, Any]], arm: str) -> list[float]:
    return [row["recall_at_1"] for row in rows if row["arm"] == arm]


def _shown(rows: list[dict[str, Any]], arm: str) -> str:
    values = [100 * value for value in _of(rows, arm)]
    return f"{mean(values):.1f} % ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--runs", type=Path, default=Path("runs/noise-study"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    rows = [run(name, seed, options.runs) for seed in range(options.seeds) for name in ARMS]
    header = machine.describe("cpu")
    settings = {"rate": RATE, "kind": TrainConfig.noise_kind, "steps": STEPS, "seeds": options.seeds}
    content = {"settings": settings, **{key: header[key] for key in ("device", "commit", "torch", "fastdml")}}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "noise-study.json"
    path.write_text(json.dumps({**content, "runs": rows}, indent=1) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
