"""The resident memory of this process and its high-water mark, as Linux counts them.

The mark is reset through /proc/self/clear_refs and read back as VmHWM, so what is counted is what a step
touched, the temporaries of matrix products included.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def can_measure() -> bool:
    """Whether this system lets a process reset and read its own high-water mark (Linux)."""
    return _STATUS.exists() and os.access(_CLEAR, os.W_OK)


def release_freed_memory() -> None:
    """Hands freed memory back to the system, so that it cannot hide what the next step takes."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not the GNU C library
        pass


def reset_high_water() -> int:
    """Resets the mark; returns the bytes that are resident now."""
    _CLEAR.write_text("5")
    return _status_bytes("VmRSS")


def high_water() -> int:
    """The most bytes that were resident at once since the reset."""
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
