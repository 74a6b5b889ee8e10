"""SoftTriple over the batch, and every loss with centres, against others: time and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench.conftest import chosen_device
from bench.contests import BOTH_WAYS
from bench.proxy_peers import proxy_contestants, soft_triple_contestants
from bench.replay import clock
from bench.sweep import Sweep
from bench.workload import Workload

SIZES = {"test_soft_triple": ((32, 64), (256, 64), (1024, 64)), "test_proxy_loss": ((256, 64),)}
FULL = ((32, 64), (256, 64), (256, 512), (1024, 64))
CUDA = ((256, 64), (1024, 512), (4096, 512))
TINY = ((32, 16),)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device = chosen_device(metafunc.config)
    test = metafunc.function.__name__
    sizes: Sequence[tuple[int, int]] = CUDA if device == "cuda" else SIZES[test]
    dtype = "bfloat16" if device == "cuda" else "float32"
    if metafunc.config.getoption("--bench-full") and device == "cpu":
        sizes = FULL
    if metafunc.config.getoption("--bench-tiny"):
        sizes, dtype = TINY, "float32"
    find = soft_triple_contestants if test == "test_soft_triple" else proxy_contestants
    names = [contestant.name for contestant in find(device)]
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
def test_soft_triple(
    benchmark: Any,
    soft_triple_sweep: Sweep,
    rivals: Callable[[Workload], list[str]],
    work: Workload,
    provider: str,
    direction: str,
) -> None:
    _replay(benchmark, soft_triple_sweep, rivals(work), work, provider, direction, "soft_triple")


@pytest.mark.benchmark(timer=clock, warmup=False)
def test_proxy_loss(
    benchmark: Any,
    proxy_sweep: Sweep,
    rivals: Callable[[Workload], list[str]],
    work: Workload,
    provider: str,
    direction: str,
) -> None:
    _replay(benchmark, proxy_sweep, rivals(work), work, provider, direction, "losses with centres")


def _replay(
    benchmark: Any,
    sweep: Sweep,
    names: Sequence[str],
    work: Workload,
    provider: str,
    direction: str,
    what: str,
) -> None:
    outcome = sweep.times(work, names)[provider]
    if direction == "both":
        benchmark.extra_info["peak_bytes"] = sweep.peak(work, provider).bytes
    if outcome.status != "ok":
        pytest.skip(outcome.status)
    benchmark.group = f"{what} {direction}, {work}"
    clock.replay(benchmark, outcome.seconds[direction])
