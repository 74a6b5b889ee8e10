"""Kernels run either by the interpreter or compiled, and which is settled when triton is first imported.

Under TRITON_INTERPRET=1 the interpreted tests are collected; else the ahead-of-time tests, and one test that
runs the interpreted ones in a process of their own.
"""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

collect_ignore_glob = (
    ["*_ahead_of_time.py", "test_under_interpreter.py"] if INTERPRETED else ["*_interpreted.py"]
)

if INTERPRETED:
    from quick_interpreter import exchanged_once_a_launch

    quick_interpreter = pytest.fixture(scope="session", autouse=True)(exchanged_once_a_launch)
