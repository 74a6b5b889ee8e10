"""Exact evaluation of a set as large as the test set of Stanford Online Products.

``python -m bench.retrieval_sop``: 60,502 rows of 512 numbers in classes of 2 to 12 (5.3 on average), query =
gallery. On two cores it takes about ten minutes, so ``pytest bench`` leaves it out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import machine
from bench.ceilings import cpu_ceilings, cuda_ceilings
from bench.contests import find_contestants, find_wrong
from bench.interleaved import TINY, Protocol
from bench.report import summary
from bench.results import FOLDER
from bench.sweep import Sweep
from bench.workload import Workload

CONTEST = "retrieval_sop"
SAMPLES, WIDTH = 60502, 512
TINY_SIZE = (300, 16)
PROVIDERS = {"cpu": "fastdml,faiss-cpu,pml", "cuda": "fastdml,topk"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Times and weighs the contestants in turns, and prints tables and targets."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval_sop", description=__doc__)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=here, choices=("cpu", "cuda"))
    parser.add_argument("--providers", help=f"default: {PROVIDERS['cpu']}; on a GPU {PROVIDERS['cuda']}")
    parser.add_argument("--tiny", action="store_true", help="a small set, to see that it runs")
    parser.add_argument(
        "--results", type=Path, help=f"folder of the results files; default: {FOLDER.name}, none with --tiny"
    )
    options = parser.parse_args(arguments)
    device, tiny = options.device, options.tiny
    folder = options.results or (None if tiny else FOLDER)
    sweep = Sweep(
        CONTEST,
        device,
        find_contestants(CONTEST, device),
        find_wrong(CONTEST, device),
        cpu_ceilings(256 if tiny else 2048) if device == "cpu" else cuda_ceilings(),
        TINY if tiny else Protocol(),
        folder and folder / machine.slug(device) / f"{CONTEST}.json",
    )
    samples, width = TINY_SIZE if tiny else (SAMPLES, WIDTH)
    work = Workload(samples, width, device=device, uneven=True)
    names = (options.providers or PROVIDERS[device]).split(",")
    sweep.times(work, names)
    for name in names:
        sweep.peak(work, name)
    print("\n".join(summary(sweep.results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
