"""Runs the interpreted tests, which need processes that import triton under TRITON_INTERPRET=1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FOLDER = Path(__file__).parent
NAMES = sorted(path.name for path in FOLDER.glob("test_*_interpreted.py"))


@pytest.mark.parametrize("name", NAMES)
def test_under_interpreter(name: str) -> None:
    """One after another: other tests keep the other cores busy."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / name)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:]
