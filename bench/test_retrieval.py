"""Recall@1, 10, 100, 1000 and MAP@R of a set against itself: counted ranks against exact searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.conftest import chosen_device
from bench.replay import clock
from bench.retrieval_peers import retrieval_contestants
from bench.sweep import Sweep
from bench.workload import Workload

DEFAULT = [(4096, 128), (16384, 128)]
FULL = [(1 << power, width) for width in (128, 512) for power in range(10, 17)]
TINY = [(256, 16)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    device = chosen_device(config)
    sizes = (
        TINY if config.getoption("--bench-tiny") else FULL if config.getoption("--bench-full") else DEFAULT
    )
    metafunc.parametrize(
        ("work", "provider"),
        [
            pytest.param(work, contestant.name, id=f"{work.samples}-{work.width}-{contestant.name}")
            for work in (Workload(samples, width, device=device) for samples, width in sizes)
            for contestant in retrieval_contestants(device)
        ],
    )


@pytest.mark.benchmark(timer=clock, warmup=False)
def test_evaluate(
    benchmark: Any,
    retrieval_sweep: Sweep,
    rivals: Callable[[Workload], list[str]],
    work: Workload,
    provider: str,
) -> None:
    outcome = retrieval_sweep.times(work, rivals(work))[provider]
    benchmark.extra_info["peak_bytes"] = retrieval_sweep.peak(work, provider).bytes
    if outcome.status != "ok":
        pytest.skip(outcome.status)
    benchmark.group = f"evaluate, {work}"
    clock.replay(benchmark, outcome.seconds["evaluate"])
