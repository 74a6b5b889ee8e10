"""Exact evaluation of a set as large as the test set of Stanford Online Products.

``python -m bench.retrieval_sop``: 60,502 rows of 512 numbers in classes of 2 to 12 (5.3 on average), query =
gallery. Contestants take turns.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor

from bench import memory
from bench.interleaved import Protocol, interleave
from bench.retrieval_peers import retrieval_contestants
from bench.tables import NAMES
from bench.turns import CallTurn
from bench.workload import Workload
from fastdml.resident_memory import can_measure, high_water, release_freed_memory, reset_high_water

CLASS_SIZES = torch.tensor([2, 2, 3, 3, 4, 5, 5, 5, 6, 7, 9, 12])
NOISE = 2.5


def make_set(samples: int, width: int) -> tuple[Tensor, Tensor]:
    """Embeddings [N, D] and shuffled labels [N]: a class's centre plus noise, both Gaussian."""
    generator = torch.Generator().manual_seed(0)
    sizes = CLASS_SIZES[torch.randint(len(CLASS_SIZES), (samples,), generator=generator)]
    labels = torch.repeat_interleave(sizes)[:samples]
    labels = labels[torch.randperm(samples, generator=generator)]
    rows = torch.randn(samples, width, generator=generator).mul_(NOISE)
    centres = torch.randn(int(labels.max()) + 1, width, generator=generator)
    return rows.add_(centres[labels]), labels


def main() -> None:
    """Prints seconds, memory and metrics of every contestant."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval_sop", description=__doc__)
    parser.add_argument("--samples", type=int, default=60502)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["fastdml", "faiss-cpu", "pml"], help="contestants")
    options = parser.parse_args()
    batch = make_set(options.samples, options.width)
    contestants = [c for c in retrieval_contestants("cpu") if c.name in options.only]
    size = Workload(options.samples, options.width)
    refused = {c.name: why for c in contestants if (why := c.refuses(size, memory.free_memory()))}
    for name, why in refused.items():
        print(f"{NAMES[name]:<14}{why}")
    contestants = [c for c in contestants if c.name not in refused]
    for contestant in contestants:
        function = contestant.make()
        function(*make_set(1500, options.width))  # threads and libraries
        release_freed_memory()
        before = reset_high_water() if can_measure() else 0
        found = function(*batch)
        peak = f"{(high_water() - before) / 1e6:.0f} MB beyond the inputs" if can_measure() else ""
        metrics = "  ".join(f"{name} {100 * value:.3f} %" for name, value in found.items())
        print(f"{NAMES[contestant.name]:<14}{peak}\n  {metrics}", flush=True)
    protocol = Protocol(least_rounds=options.rounds, most_rounds=options.rounds, slow_rounds=options.rounds)
    makers = {c.name: lambda c=c: CallTurn(c.make(), batch) for c in contestants}
    for name, outcome in interleave(makers, protocol).items():
        seconds = outcome.seconds.get("evaluate", [])
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}" if seconds else outcome.status
        middle = f"{statistics.median(seconds):.2f} s" if seconds else ""
        print(f"{NAMES[name]:<14}median {middle} of {options.rounds} rounds ({spread})")


if __name__ == "__main__":
    main()
