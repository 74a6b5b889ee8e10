"""Every loss with centres as fastdml and as pytorch-metric-learning compute it: time and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench.conftest import chosen_device
from bench.contests import BOTH_WAYS
from bench.proxy_peers import proxy_contestants
from bench.replay import clock
from bench.sweep import Sweep
from bench.workload import Workload

SIZES = ((256, 64),)
FULL = ((32, 64), (256, 64), (256, 512), (1024, 64))
CUDA = ((256, 64), (1024, 512), (4096, 512))
TINY = ((32, 16),)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device = chosen_device(metafunc.config)
    sizes: Sequence[tuple[int, int]] = CUDA if device == "cuda" else SIZES
    dtype = "bfloat16" if device == "cuda" else "float32"
    if metafunc.config.getoption("--bench-full") and device == "cpu":
        sizes = FULL
    if metafunc.config.getoption("--bench-tiny"):
        sizes, dtype = TINY, "float32"
    names = [contestant.name for contestant in proxy_contestants(device)]
    metafunc.parametrize(
        ("work", "provider", "direction"),
        [
            pytest.param(work, name, direction, id=f"{direction}-{work.samples}-{work.width}-{name}")
            for work in (Workload(samples, width, dtype, device) for samples, width in sizes)
            for name in names
            for direction in BOTH_WAYS
        ],
    )


@pytest.mark.benchmark(timer=clock, warmup=False)
def test_proxy_loss(
    benchmark: Any,
    proxy_sweep: Sweep,
    rivals: Callable[[Workload], list[str]],
    work: Workload,
    provider: str,
    direction: str,
) -> None:
    outcome = proxy_sweep.times(work, rivals(work))[provider]
    if direction == "both":
        benchmark.extra_info["peak_bytes"] = proxy_sweep.peak(work, provider).bytes
    if outcome.status != "ok":
        pytest.skip(outcome.status)
    benchmark.group = f"losses with centres {direction}, {work}"
    clock.replay(benchmark, outcome.seconds[direction])
