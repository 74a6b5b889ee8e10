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


@functools.cache
def _device(index: int) -> tuple[str, int]:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return properties.gcnArchName.split(":")[0], properties.multi_processor_count
    return f"sm_{properties.major}{properties.minor}", properties.multi_processor_count


def arch(tensor: Tensor) -> str:
    """Architecture that runs kernels on this tensor: "sm_90", "gfx942"; "interpreter" for CPU tensors."""
    return _device(tensor.device.index)[0] if tensor.is_cuda else "interpreter"


def processors(tensor: Tensor) -> int:
    """Multiprocessors of the tensor's device."""
    return _device(tensor.device.index)[1] if tensor.is_cuda else 1


def column_splits(tensor: Tensor, row_blocks: int, column_tiles: int) -> int:
    """Programs that share the columns of a row block, so that few rows still fill the device."""
    wanted = 2 * processors(tensor) // row_blocks
    return max(1, min(wanted, column_tiles // 2, 16))


def row_tile(width: int) -> Tile:
    """Tile of the kernels that visit every row once."""
    depth = min(power_of_two(width), 1024)
    return Tile(max(1, 2048 // depth), 1, depth, 4, 1)


def forward_tile(arch: str, dtype: torch.dtype, width: int, precision: str) -> Tile:
    if arch == "interpreter":
        return Tile(32, 16, min(power_of_two(width), 64), 4, 1)
    return Tile(128, 128, min(power_of_two(width), 64), 8, 3)


def backward_tile(arch: str, dtype: torch.dtype, width: int) -> Tile:
    if arch == "interpreter":
        return Tile(32, 16, power_of_two(width), 4, 1)
    return Tile(128, 64, power_of_two(width), 8, 2)


def block_tile(arch: str, dtype: torch.dtype, width: int, precision: str) -> Tile:
    if arch == "interpreter":
        return Tile(16, 32, min(power_of_two(width), 64), 4, 1)
    return Tile(128, 128, min(power_of_two(width), 64), 8, 3)


def block_side(tensor: Tensor, count: int, tile: Tile) -> int:
    """Side of the blocks of weights: 32 MB of them at most, and no more than there are rows."""
    if not tensor.is_cuda:
        return 64
    largest = 4096 if tensor.element_size() == 2 else 2048
    step = max(tile.rows, tile.columns)
    return min(largest, (count + step - 1) // step * step)


def row_owner_fits(arch: str, dtype: torch.dtype, width: int) -> bool:
    """Whether the backward runs as row owner; else by blocks."""
    return dtype != torch.float32 and width <= 256
