"""Whole runs on a small data set, as `torchrun tests/distributed/run_cases.py FOLDER` starts them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fastdml.data import Split
from fastdml.training import RunResult, TrainConfig, catalogue, run_experiment
from fastdml.training.catalogue import DatasetEntry
from fastdml.training.processes import leave_processes
from fastdml.training.progress import PlainDisplay
from fastdml.training.run import RunDirectory

STEPS = 12
SETTINGS = {
    "data": "tiny", "steps": STEPS, "batch": 32, "samples_per_class": 4, "chunk": 8, "embedding_dim": 8,
    "network_width": 4, "warmup_steps": 2, "evaluations": 2, "checkpoint_every": 8, "device": "cpu",
    "learning_rate": 5e-5,  # training is chaotic: at large rates rounding grows by a factor every few steps
}  # fmt: skip
CASES = {
    "multi-similarity": {},
    "triplet": {"loss": "triplet"},
    "a learnt boundary": {"loss": "margin"},
    "memory": {"loss": "contrastive-mined", "memory": 60},
    "centres": {"loss": "soft-triple"},
    "centroids": {
        "loss": "fat-hybrid",
        "optimiser": "sgd",
    },  # Adam makes steps of rounding where a gradient is 0
    "momentum": {"optimiser": "sgd"},
    "chunks that do not divide": {"chunk": 7},
}
"""Settings on top of ``SETTINGS``."""


def split(name: str, first: int, classes: int) -> Split:
    """Coarse patterns, and noise on them."""
    generator = torch.Generator().manual_seed(first)
    patterns = (torch.rand(classes, 1, 8, 8, generator=generator) > 0.7).float()
    images = patterns.repeat_interleave(6, 0).repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = (images + 0.6 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    every = torch.ones(len(images), dtype=torch.bool)
    labels = torch.arange(first, first + classes).repeat_interleave(6)
    names = tuple(map(str, range(first + classes)))
    return Split(f"tiny/{name}", (255 * images).byte(), labels, names, every, every)


def load(name: str) -> Split:
    return split("train", 0, 8) if name == "train" else split("test", 8, 6)


def go(folder: Path, names: list[str], resume: bool = False) -> None:
    """Run the cases of these names, each into its own folder."""
    torch.set_num_threads(1)
    catalogue.DATASETS = {**catalogue.DATASETS, "tiny": DatasetEntry(load, "for tests")}
    sys.modules["fastdml.training.datasets"].DATASETS = catalogue.DATASETS
    for name in names:
        config = TrainConfig(**{**SETTINGS, **CASES[name]})
        run_experiment(
            config, folder / name, PlainDisplay(), panel_seconds=0, resume=resume, write_report=_no_report
        )


def _no_report(result: RunResult, run: RunDirectory) -> None:
    """It would take longer than the run."""


if __name__ == "__main__":
    go(Path(sys.argv[1]), sys.argv[2].split(","), resume="resume" in sys.argv)
    leave_processes()
