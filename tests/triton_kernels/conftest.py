"""Kernels run either by the interpreter or compiled, and which is settled when triton is first imported.

Under TRITON_INTERPRET=1 the interpreted tests are collected; else the ahead-of-time tests. The interpreted
ones are then run by a test in processes of their own, or, where there is a GPU, on it.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
DEVICE = "cpu" if INTERPRETED else "cuda"

if INTERPRETED:
    from quick_interpreter import exchanged_once_a_launch

    collect_ignore_glob = ["*_ahead_of_time.py", "test_launches.py", "test_under_interpreter.py"]
    kernels = pytest.fixture(scope="session", autouse=True)(exchanged_once_a_launch)
elif torch.cuda.is_available():
    from on_device import kernels_on_device

    collect_ignore_glob = ["test_launches.py", "test_under_interpreter.py"]
    kernels = pytest.fixture(scope="package", autouse=True)(kernels_on_device)
else:
    collect_ignore_glob = ["*_interpreted.py"]


@pytest.fixture
def device() -> str:
    """Where a kernel that is no operator takes its tensors."""
    return DEVICE
