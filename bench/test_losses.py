"""Every pair loss as fastdml and as pytorch-metric-learning compute it: time and peak memory over N."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.conftest import chosen_device
from bench.contests import BOTH_WAYS
from bench.loss_peers import loss_contestants
from bench.replay import clock
from bench.sweep import Sweep
from bench.workload import Workload

SIZES = (256, 512, 4096)
"""PML takes part where it fits: a loss that compares positives with negatives in the small ones only."""
LARGE = 8192
LARGE_BY_DEFAULT = ("lifted/fastdml", "nt-xent/fastdml", "triplets/fastdml")
"""The losses whose memory grows with N^3 in PML; a full run takes all."""
FULL = (*SIZES, 1024, 2048, LARGE)
CUDA = ((512, 128), (4096, 128), (16384, 512))
TINY = (32, 64)
WEIGHED = 4096
"""The least N whose memory the default run measures: each takes a process of its own."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize(
        ("work", "provider", "direction"),
        [
            pytest.param(work, name, direction, id=f"{direction}-{work.samples}-{name}")
            for work, names in _plan(metafunc.config).items()
            for name in names
            for direction in BOTH_WAYS
        ],
    )


def _plan(config: pytest.Config) -> dict[Workload, list[str]]:
    """Who is timed at which size."""
    device = chosen_device(config)
    names = [contestant.name for contestant in loss_contestants(device)]
    if config.getoption("--bench-tiny"):
        return {Workload(samples, 16, device=device): names for samples in TINY}
    if device == "cuda":
        return {Workload(samples, width, "bfloat16", device): names for samples, width in CUDA}
    if config.getoption("--bench-full"):
        return {Workload(samples, 128): names for samples in sorted(FULL)}
    plan = {Workload(samples, 128): names for samples in SIZES}
    return {**plan, Workload(LARGE, 128): list(LARGE_BY_DEFAULT)}


@pytest.mark.benchmark(timer=clock, warmup=False)
def test_loss(
    benchmark: Any,
    request: pytest.FixtureRequest,
    loss_sweep: Sweep,
    rivals: Callable[[Workload], list[str]],
    work: Workload,
    provider: str,
    direction: str,
) -> None:
    outcome = loss_sweep.times(work, rivals(work))[provider]
    if direction == "both" and _weighed(request.config, work):
        benchmark.extra_info["peak_bytes"] = loss_sweep.peak(work, provider).bytes
    if outcome.status != "ok":
        pytest.skip(outcome.status)
    benchmark.group = f"losses {direction}, {work}"
    clock.replay(benchmark, outcome.seconds[direction])


def _weighed(config: pytest.Config, work: Workload) -> bool:
    least = TINY[-1] if config.getoption("--bench-tiny") else WEIGHED
    return bool(config.getoption("--bench-full") or work.device == "cuda" or work.samples >= least)
