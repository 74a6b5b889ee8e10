"""Compiles what the stages of measuring will run, on all cores: ``python -m bench.gpu.warm --jobs 16``.

Every contestant that compiles takes a step of a small batch of each width and dtype; what torch compiles anew
for every shape takes one of each. Triton and torch keep what they made on disk, where the stages find it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from bench import loss_peers, peers, proxy_peers, test_fat, test_losses, test_proxy_losses
from bench.contests import find_contestants
from bench.gpu import kernels, measure, pair_choices, proxy_choices
from bench.gpu.choices import FEW
from bench.gpu.proof import ENGINES
from bench.gpu.side_by_side import Task, side_by_side
from bench.interleaved import BROKEN_OFF
from bench.memory import take_step
from bench.workload import Workload

LARGEST_BY_SHAPE = 16384
SIZES: dict[str, list[tuple[int, int]]] = {
    "pair_multi_similarity": [(n, width) for width in measure.WIDTHS for n in measure.SIZES],
    "pair_losses": list(test_losses.CUDA),
    "soft_triple": list(test_proxy_losses.CUDA),
    "proxy_losses": list(test_proxy_losses.CUDA),
    "fat": list(test_fat.CUDA),
}
"""N and D that a contest is run with, in bfloat16."""
CHECKED: dict[str, tuple[int, int]] = {
    "pair_multi_similarity": peers.CHECKED,
    "pair_losses": loss_peers.CHECKED,
    "soft_triple": proxy_peers.CHECKED,
    "proxy_losses": proxy_peers.CHECKED,
    "fat": peers.CHECKED,
}
"""N and D of the batch of float32 on which its contestants are held against each other first."""


def steps(device: str, contests: Sequence[str] = tuple(SIZES)) -> Iterator[tuple[str, str, Workload]]:
    """Contest, contestant and batch of every step."""
    for contest in contests:
        sizes = SIZES[contest]
        for one in find_contestants(contest, device):
            if not one.compiles or one.absent is not None:
                continue
            by_shape = one.name == "compiled"
            for width in dict.fromkeys(width for _, width in sizes):
                counts = (
                    [n for n, each in sizes if each == width and n <= LARGEST_BY_SHAPE] if by_shape else [FEW]
                )
                for count in counts:
                    yield contest, one.name, Workload(count, width, "bfloat16", device)
            yield contest, one.name, Workload(*CHECKED[contest], "float32", device)


def step(contest: str, name: str, work: Workload) -> None:
    """Forward and backward of a contestant."""
    contestant = next(one for one in find_contestants(contest, work.device) if one.name == name)
    take_step(contestant.make(), *work.make())


def small_batches(device: str, backend: str) -> Iterator[Task]:
    """What the list of kernels and compute-sanitizer run, each batch by itself."""
    for dtype in kernels.DTYPES if device == "cuda" else ("float32",):
        for number in range(len(kernels.BATCHES)):
            for engine in ENGINES:
                yield Task(kernels.run_small, (device, backend, [dtype], [engine], [number]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all steps; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.warm", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--backend", default="triton", help="of the small batches; default: triton")
    parser.add_argument(
        "--what", default="kernels,contests,choices", help="default: kernels,contests,choices"
    )
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: this one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no step after so long")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    options = parser.parse_args(arguments)
    what = options.what.split(",")
    tasks: list[Task] = []
    if "kernels" in what:
        tasks += small_batches(options.device, options.backend)
    if "contests" in what:
        tasks += [Task(step, one) for one in steps(options.device)]
    if "choices" in what:
        tasks += pair_choices.trials(options.device) + proxy_choices.trials(options.device)
    if options.tiny:
        tasks = tasks[:2]
    begun, ended, failed = time.monotonic(), 0, 0
    for done in side_by_side(tasks, options.jobs, begun + options.seconds):
        ended += 1
        if done.error:
            failed += 1
            print(f"{tasks[done.number].arguments}: {done.error}", flush=True)
    print(f"{ended} of {len(tasks)} steps, {failed} failed, {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if failed else 0 if ended == len(tasks) else BROKEN_OFF


if __name__ == "__main__":
    sys.exit(main())
