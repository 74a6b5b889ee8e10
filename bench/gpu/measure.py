"""Time and memory of all contestants over N and D on a device: ``python -m bench.gpu.measure --out FILE``.

The file is rewritten after every size, and sizes that it already holds from the same commit and device are
left out: a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.ceilings import cpu_ceilings, cuda_ceilings
from bench.contests import find_contestants, find_wrong
from bench.gpu.graphs import graph_times
from bench.interleaved import BROKEN_OFF, SHORT, TINY
from bench.report import summary
from bench.results import write_whole
from bench.sweep import Sweep
from bench.workload import Workload

CONTEST = "pair_multi_similarity"
SIZES = tuple(1 << power for power in range(6, 21))
WIDTHS = (512, 128)
HEADLINE = ((512, 128), (2048, 128), (65536, 512))
"""N and D of a first look."""
GRAPHED = 8192
"""The largest N that is also timed as a CUDA graph: beyond, launching costs nothing beside the work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what is asked for, as far as the time goes."""
    options = _parse(arguments)
    device, dtypes = options.device, options.dtypes.split(",")
    sweep = _make_sweep(options)
    names = options.providers.split(",") if options.providers else list(sweep.contestants)
    deadline, status = time.monotonic() + options.seconds, 0
    for work in _works(options, dtypes):
        if sweep.knows(work, names):
            print(f"{work}: held already", flush=True)
            continue
        if time.monotonic() + sweep.foreseen_seconds(work, names) > deadline:
            print(f"{work}: no time left; run again to go on", flush=True)
            status = BROKEN_OFF
            break
        _measure(sweep, work, names, device)
    if options.csv is not None:
        write_whole(options.csv, sweep.results.to_csv())
    print("\n".join(summary(sweep.results)))
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.measure", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dtypes", default="bfloat16", help="such as bfloat16,float32")
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)), help="D")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="N")
    parser.add_argument("--headline", action="store_true", help=f"N, D of {HEADLINE} alone")
    parser.add_argument("--providers", default="", help="default: all")
    parser.add_argument(
        "--seconds", type=float, default=480, help="start no size that would end later than this"
    )
    parser.add_argument("--tiny", action="store_true", help="a few small sizes, to see that it runs")
    parser.add_argument("--out", type=Path, required=True, help="the results file")
    parser.add_argument(
        "--csv", type=Path, help="the same rows as CSV, each with commit, versions and device"
    )
    return parser.parse_args(arguments)


def _make_sweep(options: argparse.Namespace) -> Sweep:
    device = options.device
    wrong = find_wrong(CONTEST, device)
    for name, why in wrong.items():
        print(f"{name} is not timed: {why}", flush=True)
    ceilings = cuda_ceilings() if device == "cuda" else cpu_ceilings(256)
    return Sweep(
        CONTEST,
        device,
        find_contestants(CONTEST, device),
        wrong,
        ceilings,
        TINY if options.tiny else SHORT,
        options.out,
        longest=20.0,
        resumes=True,
    )


def _works(options: argparse.Namespace, dtypes: Sequence[str]) -> list[Workload]:
    if options.tiny:
        return [Workload(samples, 16, "float32", options.device) for samples in (32, 64)]
    # Widths in the order given, for what comes first is sure to be measured.
    widths = [int(word) for word in options.widths.split(",")]
    sizes = sorted({int(word) for word in options.sizes.split(",")})
    pairs = HEADLINE if options.headline else [(samples, width) for width in widths for samples in sizes]
    return [Workload(samples, width, dtype, options.device) for dtype in dtypes for samples, width in pairs]


def _measure(sweep: Sweep, work: Workload, names: Sequence[str], device: str) -> None:
    begun = time.monotonic()
    outcomes = sweep.times(work, names)
    for name in names:
        if outcomes[name].status == "ok" or outcomes[name].status.startswith("out of memory"):
            sweep.peak(work, name)
    if device == "cuda" and work.samples <= GRAPHED:
        makers: dict[str, Callable[[], object]] = {}
        for name in names:
            if (
                outcomes[name].status == "ok" and name != "pml"
            ):  # which lists pairs, and so waits for the device
                makers[name] = sweep.contestants[name].make
        sweep.add_times(work, "graph", graph_times(makers, work))
    if device == "cuda":
        torch.cuda.empty_cache()
    said = ", ".join(
        f"{name} {min(outcome.seconds['both']) * 1e3:.3g} ms"
        if outcome.status == "ok"
        else f"{name}: {outcome.status}"
        for name, outcome in outcomes.items()
    )
    print(f"{work}: {said} [{time.monotonic() - begun:.0f} s]", flush=True)


if __name__ == "__main__":
    sys.exit(main())
