"""Tiles of every kernel, by architecture, dtype and width. None was timed on a device yet: they are the ones that
compile ahead of time without spilling a register and within the device's shared memory (bench/resources.py).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """Rows, columns and depth (of D at a time) of a tile, warps of a program, stages of its loads."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def power_of_two(n: int, least: int = 16) -> int:
    """The smallest power of two that is at least ``n`` and ``least``."""
    return max(least, 1 << (n - 1).bit_length())
