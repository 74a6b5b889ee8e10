"""A run does not depend on how many processes share it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import run_cases
import torch

from fastdml.training.checkpoint import read_tensors
from fastdml.training.run import read_lines

SCRIPT = Path(run_cases.__file__)
# two processes take the paths of four: they run what the number of processes enters in a way of its own
RUNS = {
    1: list(run_cases.CASES),
    2: ["multi-similarity", "memory", "centroids", "chunks that do not divide"],
    4: list(run_cases.CASES),
}


def launch(processes: int, folder: Path, names: list[str], *words: str) -> str:
    """torchrun on this machine, but for one process; what it printed."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(torchrun if processes > 1 else ()), str(SCRIPT), str(folder), ",".join(names), *words]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of ``RUNS``, by the number of processes."""
    folder = tmp_path_factory.mktemp("runs")
    for processes, names in RUNS.items():
        launch(processes, folder / str(processes), names)
    return {processes: folder / str(processes) for processes in RUNS}


def relative_difference(mine: Path, theirs: Path) -> float:
    """Of all parameters and buffers together."""
    (found, _), (wanted, _) = (read_tensors(run / "weights.safetensors") for run in (mine, theirs))
    assert found.keys() == wanted.keys()
    parameters, others = (
        torch.cat([value.double().flatten() for value in tensors.values()]) for tensors in (wanted, found)
    )
    return float((others - parameters).norm() / parameters.norm())


@pytest.mark.parametrize(
    ("processes", "name"), [(processes, name) for processes in (2, 4) for name in RUNS[processes]]
)
def test_losses_and_parameters_are_those_of_one_process(
    runs: dict[int, Path], processes: int, name: str
) -> None:
    mine, theirs = runs[processes] / name, runs[1] / name
    losses = [line["loss"] for line in read_lines(theirs / "log.jsonl")]
    assert len(losses) == run_cases.STEPS
    found = [line["loss"] for line in read_lines(mine / "log.jsonl")]
    assert found == pytest.approx(losses, rel=1e-6)
    assert relative_difference(mine, theirs) < 1e-6


@pytest.mark.parametrize("name", run_cases.CASES)
def test_the_first_process_alone_writes(runs: dict[int, Path], name: str) -> None:
    files = {file.name for file in (runs[1] / name).iterdir()}
    assert {file.name for file in (runs[4] / name).iterdir()} | {"loss.safetensors"} == files | {
        "loss.safetensors"
    }
    metrics = json.loads((runs[4] / name / "metrics.json").read_text())
    assert metrics["processes"] == 4
    assert metrics["recall"].keys() == {"raw pixels", "untrained", "trained"}


@pytest.mark.parametrize(("processes", "names"), [(2, ["memory", "centres"]), (1, ["centres"])])
def test_another_number_of_processes_goes_on(
    runs: dict[int, Path], processes: int, names: list[str], tmp_path: Path
) -> None:
    for name in names:
        shutil.copytree(runs[4] / name, tmp_path / name)
        (tmp_path / name / "metrics.json").unlink()  # as if it had been killed after its last checkpoint
    printed = launch(processes, tmp_path, names, "resume")
    assert printed.count("Going on after step 8") == len(names)
    for name in names:
        assert relative_difference(tmp_path / name, runs[1] / name) < 1e-6
