"""Runs the interpreted tests, which need processes that import triton under TRITON_INTERPRET=1."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton")

FOLDER = Path(__file__).parent
NAMES = sorted(path.name for path in FOLDER.glob("test_*_interpreted.py"))


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All of them side by side: the interpreter keeps one core busy."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    started = {
        name: subprocess.Popen(
            (*command, str(FOLDER / name)),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in NAMES
    }
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.parametrize("name", NAMES)
def test_under_interpreter(name: str, running: dict[str, subprocess.Popen[str]]) -> None:
    said, _ = running[name].communicate()
    assert running[name].returncode == 0, said[-8000:]
