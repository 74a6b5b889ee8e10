"""Options and fixtures of the benchmarks, and the tables printed at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import machine
from bench.ceilings import cpu_ceilings, cuda_ceilings
from bench.contests import find_contestants, find_wrong
from bench.interleaved import SHORT, TINY, Protocol
from bench.report import summary
from bench.results import FOLDER
from bench.sweep import Sweep
from bench.workload import Workload

QUICK = 8192
"""The largest N, on a CPU, at which a short run waits for contestants that hold all pairs."""
SWEEPS = pytest.StashKey[list[Sweep]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastdml benchmarks")
    group.addoption(
        "--bench-full", action="store_true", help="every size (hours on two cores), not those of ten minutes"
    )
    group.addoption(
        "--bench-tiny", action="store_true", help="a few small sizes, to see that it runs; writes no file"
    )
    group.addoption(
        "--bench-device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="default: a GPU if there is one",
    )
    group.addoption("--bench-results", type=Path, default=FOLDER, help="folder of the results files")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SWEEPS] = []


def chosen_device(config: pytest.Config) -> str:
    """The device that --bench-device asks for."""
    asked = str(config.getoption("--bench-device"))
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def pair_sweep(request: pytest.FixtureRequest) -> Sweep:
    """The contest of Multi-Similarity."""
    return _sweep(request.config, "pair_multi_similarity")


@pytest.fixture(scope="session")
def loss_sweep(request: pytest.FixtureRequest) -> Sweep:
    """The contest of all pair losses."""
    return _sweep(request.config, "pair_losses")


@pytest.fixture(scope="session")
def soft_triple_sweep(request: pytest.FixtureRequest) -> Sweep:
    """The contest of SoftTriple by itself."""
    return _sweep(request.config, "soft_triple")


@pytest.fixture(scope="session")
def proxy_sweep(request: pytest.FixtureRequest) -> Sweep:
    """The contest of all losses with centres of classes."""
    return _sweep(request.config, "proxy_losses")


@pytest.fixture(scope="session")
def fat_sweep(request: pytest.FixtureRequest) -> Sweep:
    """The contest of FAT."""
    return _sweep(request.config, "fat")


@pytest.fixture(scope="session")
def retrieval_sweep(request: pytest.FixtureRequest) -> Sweep:
    """The contest of exact evaluation."""
    return _sweep(request.config, "retrieval_evaluate")


def _sweep(config: pytest.Config, contest: str) -> Sweep:
    """A contest of those who were found to agree."""
    device, tiny = chosen_device(config), config.getoption("--bench-tiny")
    path = config.getoption("--bench-results") / machine.slug(device) / f"{contest}.json"
    sweep = Sweep(
        contest,
        device,
        find_contestants(contest, device),
        find_wrong(contest, device),
        cpu_ceilings(256 if tiny else 2048) if device == "cpu" else cuda_ceilings(),
        TINY if tiny else SHORT if device == "cuda" else Protocol(),
        None if tiny else path,
        quick=None if config.getoption("--bench-full") or device == "cuda" else QUICK,
        resumes=device == "cuda",
    )
    config.stash[SWEEPS].append(sweep)
    return sweep


@pytest.fixture
def rivals(request: pytest.FixtureRequest) -> Callable[[Workload], list[str]]:
    """The contestants that this session's tests want at a size: -k leaves the others out of the rounds."""
    test = request.node.originalname

    def find(work: Workload) -> list[str]:
        wanted: dict[str, None] = {}
        for item in request.session.items:
            parameters = getattr(getattr(item, "callspec", None), "params", {})
            if getattr(item, "originalname", None) == test and parameters.get("work") == work:
                wanted[parameters["provider"]] = None
        return list(wanted)

    return find


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for sweep in config.stash[SWEEPS]:
        terminalreporter.section(f"{sweep.results.contest} on {sweep.header['device']}")
        for line in summary(sweep.results):
            terminalreporter.write_line(line)
        if sweep.path is not None:
            terminalreporter.write_line(
                f"written: {machine.shown(sweep.path)}; python -m bench.report makes the README's part"
            )
