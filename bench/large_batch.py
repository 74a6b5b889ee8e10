"""What cached gradients cost: memory and time of a step of 8192 images in chunks of 256.

    python -m bench.large_batch

Held against what it must take: the memory of a plain step of one chunk, and the time of embedding every chunk
once without and once with a graph, and of the loss of all. Memory is that of four steps of a kind in a fresh
process: the high-water mark of the resident set less what was resident before, on a GPU the allocator's. What
is freed goes back to the system at once there, so that what is resident is what is in use: as it comes, the
C library holds on to up to half as much again, now more and now less.
Times are medians of steps in turn. Writes cached_gradients.json beside the results of the benchmarks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from bench import machine
from bench.results import FOLDER
from fastdml import CachedGradients, losses
from fastdml.resident_memory import high_water, release_freed_memory, reset_high_water
from fastdml.training.network import EmbeddingNetwork

KINDS = ("one chunk", "cached", "whole")
STEPS = 4
"""Whose memory is measured."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Sizes:
    """A step: images of 32 x 32, the small network of a width, Multi-Similarity with mining."""

    batch: int = 8192
    chunk: int = 256
    width: int = 32


TINY = Sizes(64, 16, 4)


class Work:
    """A network, a loss and a batch on a device."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        torch.manual_seed(0)
        self.sizes, self.device = sizes, device
        self.model: nn.Module = EmbeddingNetwork(width=sizes.width).to(device)
        self.loss = losses.MultiSimilarityLoss(epsilon=0.1)
        self.images = torch.randint(256, (sizes.batch, 1, 32, 32), dtype=torch.uint8, device=device)
        self.labels = torch.arange(sizes.batch, device=device) // 8
        self.cached = CachedGradients(self.model, sizes.chunk, forward=lambda model, part: model(part / 255))

    def step(self, kind: str) -> None:
        """Gradients of a batch of one chunk, of the whole by cached gradients, or of the whole at once."""
        self.model.zero_grad()
        if kind == "cached":
            self.cached.backward(self.images, lambda embeddings: self.loss(embeddings, self.labels))
            return
        size = self.sizes.chunk if kind == "one chunk" else self.sizes.batch
        self.loss(self.model(self.images[:size] / 255), self.labels[:size]).backward()

    def steps(self, kind: str) -> None:
        """Some steps, as training makes them one after another."""
        for _ in range(STEPS):
            self.step(kind)

    def ideal(self) -> None:
        """What cached gradients cannot do without, nothing in between."""
        self.model.zero_grad()
        parts = self.images.split(self.sizes.chunk)
        with torch.no_grad():
            embeddings = torch.cat([self.model(part / 255) for part in parts])
        embeddings.requires_grad_()
        self.loss(embeddings, self.labels).backward()
        assert embeddings.grad is not None
        for part, gradient in zip(parts, embeddings.grad.split(self.sizes.chunk), strict=True):
            self.model(part / 255).backward(gradient)


def measure_peak(kind: str, sizes: Sizes, device: str) -> int:
    """Bytes that steps add to network, loss and batch; in this process."""
    work = Work(sizes, device)
    warm_up = Work(Sizes(2 * 16, 16, sizes.width), device)
    for _ in range(2):
        warm_up.step("cached")
        warm_up.step("one chunk")
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work.steps(kind)
        return torch.cuda.max_memory_allocated() - before
    release_freed_memory()
    before = reset_high_water()
    work.steps(kind)
    return high_water() - before


def measure_times(sizes: Sizes, device: str, rounds: int) -> dict[str, float]:
    """Median seconds of a step by cached gradients, of the ideal, and of one chunk."""
    work = Work(sizes, device)
    steps: dict[str, Callable[[], None]] = {
        "cached": lambda: work.step("cached"),
        "ideal": work.ideal,
        "one chunk": lambda: work.step("one chunk"),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name in sorted(steps, reverse=number % 2 == 1):
            seconds = _timed(steps[name], device)
            if number:  # the first round warms up
                taken[name].append(seconds)
    return {name: median(values) for name, values in taken.items()}


def _timed(step: Callable[[], None], device: str) -> float:
    begun = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def peak_apart(kind: str, sizes: Sizes, device: str) -> int:
    """``measure_peak`` in a fresh process."""
    request = {"kind": kind, "device": device, "sizes": vars(sizes)}
    command = [sys.executable, "-m", "bench.large_batch", "--peak", json.dumps(request)]
    at_once = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    environment = {**os.environ, **at_once}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


def measure(sizes: Sizes, device: str, rounds: int) -> dict[str, Any]:
    """Everything, with the ratios that are asked about."""
    peaks = {kind: peak_apart(kind, sizes, device) for kind in KINDS}
    seconds = measure_times(sizes, device, rounds)
    return {
        "sizes": vars(sizes),
        "peak_bytes": peaks,
        "seconds": seconds,
        "memory_over_one_chunk": peaks["cached"] / peaks["one chunk"],
        "memory_of_the_whole_over_cached": peaks["whole"] / peaks["cached"],
        "time_over_ideal": seconds["cached"] / seconds["ideal"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="to see that it runs")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        asked = json.loads(options.peak)
        print(measure_peak(asked["kind"], Sizes(**asked["sizes"]), asked["device"]))
        return
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    content = {
        "contest": "cached_gradients",
        **machine.describe(device),
        **measure(TINY if options.tiny else Sizes(), device, options.rounds),
    }
    path = options.out / machine.slug(device) / "cached_gradients.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps({key: value for key, value in content.items() if "over" in key or key == "seconds"}))


if __name__ == "__main__":
    main()
