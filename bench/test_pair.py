"""Multi-Similarity with mining: forward, backward and both, time and peak memory, over N and D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.conftest import chosen_device
from bench.contests import BOTH_WAYS
from bench.peers import pair_contestants
from bench.replay import clock
from bench.sweep import Sweep
from bench.workload import Workload

DEFAULT = [(1 << power, 128) for power in range(7, 15)] + [(1024, 512), (4096, 512)]
FULL = [(1 << power, width) for width in (128, 512) for power in range(7, 17)]
TINY = [(64, 16), (128, 16)]
WEIGHED = {1024, 4096, 8192, 16384}
"""Sizes whose memory the default run measures, at D = 128: each takes a process of its own."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    device = chosen_device(config)
    sizes = (
        TINY if config.getoption("--bench-tiny") else FULL if config.getoption("--bench-full") else DEFAULT
    )
    metafunc.parametrize(
        ("work", "provider", "direction"),
        [
            pytest.param(
                work,
                contestant.name,
                direction,
                id=f"{direction}-{work.samples}-{work.width}-{contestant.name}",
            )
            for work in (Workload(samples, width, device=device) for samples, width in sizes)
            for contestant in pair_contestants(device)
            for direction in BOTH_WAYS
        ],
    )


@pytest.mark.benchmark(timer=clock, warmup=False)
def test_multi_similarity(
    benchmark: Any,
    request: pytest.FixtureRequest,
    pair_sweep: Sweep,
    rivals: Callable[[Workload], list[str]],
    work: Workload,
    provider: str,
    direction: str,
) -> None:
    outcome = pair_sweep.times(work, rivals(work))[provider]
    if direction == "both" and _weighed(request.config, work):
        peak = pair_sweep.peak(work, provider)
        benchmark.extra_info["peak_bytes"] = peak.bytes
    if outcome.status != "ok":
        pytest.skip(outcome.status)
    benchmark.group = f"multi_similarity {direction}, {work}"
    clock.replay(benchmark, outcome.seconds[direction])


def _weighed(config: pytest.Config, work: Workload) -> bool:
    return bool(
        config.getoption("--bench-full")
        or config.getoption("--bench-tiny")
        or work.device == "cuda"
        or (work.width == 128 and work.samples in WEIGHED)
    )
