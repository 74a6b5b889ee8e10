"""FAT over the batch against the dense form, one product, and all triplets: time and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench.conftest import chosen_device
from bench.contests import BOTH_WAYS
from bench.fat_peers import fat_contestants
from bench.replay import clock
from bench.sweep import Sweep
from bench.workload import Workload

CPU = ((512, 128), (1024, 128), (2048, 128), (8192, 128), (65536, 128))
CUDA = ((1024, 128), (8192, 512), (65536, 512), (262144, 512), (1048576, 512))
TINY = ((64, 16),)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device = chosen_device(metafunc.config)
    sizes: Sequence[tuple[int, int]] = CUDA if device == "cuda" else CPU
    dtype = "bfloat16" if device == "cuda" else "float32"
    if metafunc.config.getoption("--bench-tiny"):
        sizes, dtype = TINY, "float32"
    metafunc.parametrize(
        ("work", "provider", "direction"),
        [
            pytest.param(work, name, direction, id=f"{direction}-{work.samples}-{work.width}-{name}")
            for work in (Workload(samples, width, dtype, device) for samples, width in sizes)
            for name in (contestant.name for contestant in fat_contestants(device))
            for direction in BOTH_WAYS
        ],
    )


@pytest.mark.benchmark(timer=clock, warmup=False)
def test_fat(
    benchmark: Any,
    fat_sweep: Sweep,
    rivals: Callable[[Workload], list[str]],
    work: Workload,
    provider: str,
    direction: str,
) -> None:
    outcome = fat_sweep.times(work, rivals(work))[provider]
    if direction == "both":
        benchmark.extra_info["peak_bytes"] = fat_sweep.peak(work, provider).bytes
    if outcome.status != "ok":
        pytest.skip(outcome.status)
    benchmark.group = f"FAT {direction}, {work}"
    clock.replay(benchmark, outcome.seconds[direction])
