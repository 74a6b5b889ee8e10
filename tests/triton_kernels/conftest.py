"""Kernels run either by the interpreter or compiled, and which is settled when triton is first imported.

Under TRITON_INTERPRET=1 the interpreted tests are collected; else the ahead-of-time tests, and one test that
runs the interpreted ones in a process of their own.
"""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

collect_ignore = (
    [
        "test_ahead_of_time.py",
        "test_centroid_ahead_of_time.py",
        "test_proxy_ahead_of_time.py",
        "test_thresholds_ahead_of_time.py",
        "test_under_interpreter.py",
    ]
    if INTERPRETED
    else [
        "test_centroid_interpreted.py",
        "test_label_order_interpreted.py",
        "test_pair_interpreted.py",
        "test_proxy_interpreted.py",
        "test_thresholds_interpreted.py",
        "test_user_terms_interpreted.py",
    ]
)

if INTERPRETED:
    from quick_interpreter import installed

    quick_interpreter = pytest.fixture(scope="session", autouse=True)(installed)
