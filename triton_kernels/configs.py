"""Tiles of every kernel, by architecture, dtype and width; and which form the backward takes.

None of these has been timed on a device yet. They compile ahead of time without a register spilled and within
the device's shared memory (bench/resources.py prints what each costs), and were chosen by the arithmetic in
README.md. A tile that was measured says so beside it, with the device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """Rows, columns and depth (of D at a time) of a tile, warps of a program, stages of its loads.

    ``registers`` caps those of a thread (0: no cap), so that two programs fit a multiprocessor.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    registers: int = 0

    def options(self) -> dict[str, int]:
        """What a launch takes beside the kernel's own arguments."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return options | {"maxnreg": self.registers} if self.registers else options


# For each family of devices and kind of product: the widest D of a tile, and the tile; None: of any D.
Tiles = dict[tuple[str, str], list[tuple[int | None, Tile]]]

# The forward holds its rows where one slab of depth D takes them, else it loads slabs of both sides.
FORWARD: Tiles = {
    ("sm_80", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_80", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_80", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("sm_90", "half"): [
        (64, Tile(128, 128, 64, 8, 3)),
        (128, Tile(128, 128, 128, 8, 2, registers=128)),
        (256, Tile(128, 128, 256, 8, 2)),
        (None, Tile(128, 256, 64, 8, 3)),
    ],
    ("sm_90", "tf32"): [(None, Tile(128, 128, 32, 8, 3))],
    ("sm_90", "ieee"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_100", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("sm_120", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_120", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_120", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("gfx942", "half"): [(None, Tile(128, 128, 64, 8, 2))],
    ("gfx942", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("interpreter", "half"): [(None, Tile(32, 16, 64, 4, 1))],
    ("interpreter", "ieee"): [(None, Tile(32, 16, 64, 4, 1))],
}
# Row owners; the depth is always the whole of D. Where D is wider, or no line is here, the blocks take over:
# sm_80 and sm_120 spill at D 256, gfx942 at 128, and float32 takes twice the memory on chip.
ROW_OWNER: Tiles = {
    ("sm_80", "half"): [(128, Tile(128, 64, 0, 8, 2))],
    ("sm_90", "half"): [(128, Tile(128, 64, 0, 8, 3)), (256, Tile(128, 64, 0, 8, 2))],
    ("sm_100", "half"): [(128, Tile(128, 64, 0, 8, 2)), (256, Tile(128, 32, 0, 8, 2))],
    ("sm_120", "half"): [(128, Tile(128, 64, 0, 8, 2))],
    ("interpreter", "half"): [(256, Tile(32, 16, 0, 4, 1))],
    ("interpreter", "ieee"): [(256, Tile(32, 16, 0, 4, 1))],
}
BLOCK: Tiles = {
    ("sm_80", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_80", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_80", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("sm_90", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_90", "tf32"): [(None, Tile(128, 64, 32, 8, 4))],
    ("sm_90", "ieee"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_100", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("sm_120", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_120", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_120", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("gfx942", "half"): [(None, Tile(128, 128, 64, 8, 2))],
    ("gfx942", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("interpreter", "half"): [(None, Tile(16, 32, 64, 4, 1))],
    ("interpreter", "ieee"): [(None, Tile(16, 32, 64, 4, 1))],
}
# Rows up to which one launch that compares all labels with each other finds their order, not a radix sort and
# searches of about ten: 8192 x 8192 comparisons take an H100 about 20 microseconds, by arithmetic.
COUNTED_ROWS = 8192
# Elements on a side of a block of weights, by the bytes of one: 32 MB, or 16 MB in float32, of 50 MB of L2.
BLOCK_SIDE = {2: 4096, 4: 2048}
# Samples against classes of one centre: masks, the target and the total take the registers of wider tiles.
PROXY_ONE: Tiles = {
    ("sm_80", "half"): [(None, Tile(128, 64, 32, 8, 4))],
    ("sm_80", "tf32"): [(None, Tile(128, 32, 32, 8, 3))],
    ("sm_80", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("sm_90", "half"): [
        (128, Tile(128, 128, 128, 8, 2)),
        (256, Tile(128, 128, 256, 8, 2)),
        (None, Tile(128, 128, 64, 8, 3)),
    ],
    ("sm_90", "tf32"): [(None, Tile(128, 128, 32, 8, 3))],
    ("sm_90", "ieee"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "half"): [(None, Tile(128, 128, 64, 8, 3))],
    ("sm_100", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("sm_120", "half"): [(None, Tile(128, 64, 32, 8, 4))],
    ("sm_120", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_120", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("gfx942", "half"): [(None, Tile(128, 128, 64, 8, 2))],
    ("gfx942", "ieee"): [(None, Tile(128, 64, 32, 8, 2))],
    ("interpreter", "half"): [(None, Tile(32, 16, 64, 4, 1))],
    ("interpreter", "ieee"): [(None, Tile(32, 16, 64, 4, 1))],
}
# Of several centres a soft pool holds three numbers a class beside the products, so columns are few; a slab
# of the whole depth then keeps the samples on chip, and L2 delivers centres alone.
PROXY_SEVERAL: Tiles = {
    ("sm_80", "half"): [(None, Tile(128, 64, 64, 8, 3))],
    ("sm_80", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_80", "ieee"): [(None, Tile(64, 64, 32, 8, 2))],
    ("sm_90", "half"): [
        (128, Tile(128, 64, 128, 8, 3)),
        (256, Tile(128, 64, 256, 8, 3)),
        (512, Tile(128, 32, 512, 8, 2)),
        (None, Tile(128, 64, 64, 8, 4)),
    ],
    ("sm_90", "tf32"): [(None, Tile(128, 64, 32, 8, 4))],
    ("sm_90", "ieee"): [(None, Tile(64, 64, 32, 8, 3))],
    ("sm_100", "half"): [(128, Tile(128, 64, 128, 8, 3)), (None, Tile(128, 64, 64, 8, 4))],
    ("sm_100", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "ieee"): [(None, Tile(64, 64, 32, 8, 2))],
    ("sm_120", "half"): [(128, Tile(128, 64, 128, 8, 2)), (None, Tile(128, 64, 64, 8, 3))],
    ("sm_120", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_120", "ieee"): [(None, Tile(64, 64, 32, 8, 2))],
    ("gfx942", "half"): [(None, Tile(128, 64, 64, 8, 2))],
    ("gfx942", "ieee"): [(None, Tile(64, 64, 32, 8, 2))],
    ("interpreter", "half"): [(None, Tile(32, 16, 64, 4, 1))],
    ("interpreter", "ieee"): [(None, Tile(32, 16, 64, 4, 1))],
}
# Similarities become weights where they lie; one tile of all centres of its classes fits the L1.
PROXY_WEIGHTS = Tile(8, 128, 1, 4, 1)
# Bytes of centres that are packed at once.
PROXY_PACKED = 1 << 25
# Similarities of a block, 32 MB of 50 MB of L2, and its samples at most.
PROXY_SIMILARITIES, PROXY_SAMPLES = 1 << 23, 4096
# Classes are taken so many at a time.
PROXY_STEP = 16
# Rows against points: keeping the nearest takes registers, and searching for them those of wider tiles.
CENTROID: Tiles = {
    ("sm_80", "half"): [(64, Tile(128, 32, 64, 8, 3)), (None, Tile(128, 64, 64, 8, 3))],
    ("sm_80", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_80", "ieee"): [(None, Tile(64, 32, 32, 8, 3))],
    ("sm_90", "half"): [(None, Tile(128, 128, 64, 8, 4))],
    ("sm_90", "tf32"): [(None, Tile(128, 128, 32, 8, 3))],
    ("sm_90", "ieee"): [(None, Tile(64, 32, 32, 8, 3))],
    ("sm_100", "half"): [(None, Tile(128, 64, 64, 8, 4))],
    ("sm_100", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_100", "ieee"): [(None, Tile(64, 64, 32, 4, 2))],
    ("sm_120", "half"): [(None, Tile(128, 64, 64, 8, 3))],
    ("sm_120", "tf32"): [(None, Tile(128, 64, 32, 8, 3))],
    ("sm_120", "ieee"): [(None, Tile(64, 64, 32, 4, 2))],
    ("gfx942", "half"): [(None, Tile(128, 64, 64, 8, 2))],
    ("gfx942", "ieee"): [(None, Tile(64, 64, 32, 4, 2))],
    ("interpreter", "half"): [(None, Tile(32, 32, 64, 4, 1))],
    ("interpreter", "ieee"): [(None, Tile(32, 32, 64, 4, 1))],
}
# Hinge sums keep nothing of a tile: where a slab takes the whole depth the rows stay on chip, and the next
# tile is loaded while sums are made.
HINGE_SUMS: Tiles = {
    ("sm_90", "half"): [(128, Tile(128, 128, 128, 8, 3)), (256, Tile(128, 128, 256, 8, 2))],
}
# Nearest that a row keeps in registers.
NEAREST_KEPT = 32
# Inner products of a block from which more nearest are selected, 64 MB.
CENTROID_PRODUCTS = 1 << 24
# Inner products become weights where they lie; one tile fits the registers.
HINGE_WEIGHTS = Tile(16, 128, 1, 8, 1)
# Inner products of a block of weights, 32 MB of 50 MB of L2, and its rows at most.
HINGE_PRODUCTS, HINGE_ROWS = 1 << 23, 4096
# Points are taken so many at a time.
HINGE_STEP = 16
# Rows of a block lie a multiple of so many numbers apart: where they are not aligned to 16 bytes, vendor
# products of 16 bits are made by slower kernels.
ALIGNED_NUMBERS = 16
# Entries of a segment that one program sums.
SEGMENT_PIECE = 512


@functools.cache
def family(arch: str) -> str:
    """The architecture of the tables whose tiles fit ``arch``."""
    if arch.startswith("gfx"):
        return "gfx942"
    if not arch.startswith("sm_"):
        return arch
    number = int(arch.removeprefix("sm_"))
    if number in (80, 87):
        return "sm_80"
    if number == 90:
        return "sm_90"
    # the others have about 100 KB of shared memory, as sm_120 has
    return "sm_100" if 100 <= number < 120 else "sm_120"


def _find(tiles: Tiles, arch: str, kind: str, width: int) -> Tile | None:
    for widest, tile in tiles.get((family(arch), kind), []):
        if widest is None or width <= widest:
            return tile
    return None


def _kind(dtype: torch.dtype, precision: str) -> str:
    return precision if dtype == torch.float32 else "half"


def _shallow(tile: Tile | None, width: int) -> Tile:
    assert tile is not None
    return tile._replace(depth=min(tile.depth, power_of_two(width)))


def forward_tile(arch: str, dtype: torch.dtype, width: int, precision: str, light: bool) -> Tile:
    """Tile of the sweep over the negatives; ``light``: what they add takes few registers."""
    tile = _shallow(_find(FORWARD, arch, _kind(dtype, precision), width), width)
    if dtype == torch.float16:  # whose sweep finds the largest weights too
        return tile._replace(columns=min(tile.columns, 128 if light else 64), registers=0)
    if not light:
        return tile._replace(columns=min(tile.columns, 64 if tile.registers else 128))
    # the mask of a ragged last slab takes the registers that the widest tile has not left
    return tile._replace(columns=min(tile.columns, 128)) if width % tile.depth else tile


def positive_tile(arch: str, dtype: torch.dtype, width: int, precision: str, light: bool) -> Tile:
    """Tile of the sweep over the positives: of the same depth, and no wider than a short range is worth."""
    tile = forward_tile(arch, dtype, width, precision, light)
    return tile._replace(columns=min(tile.columns, 64), registers=0)


def block_tile(arch: str, dtype: torch.dtype, width: int, precision: str, light: bool) -> Tile:
    """Tile of the kernel that writes blocks of weights, as if all pairs were negative."""
    tile = _shallow(_find(BLOCK, arch, _kind(dtype, precision), width), width)
    return tile if light else tile._replace(columns=min(tile.columns, 64))


def positive_block_tile(arch: str, dtype: torch.dtype, width: int, precision: str, light: bool) -> Tile:
    """Tile of the kernel that overwrites those of positives, which lie in few tiles."""
    tile = block_tile(arch, dtype, width, precision, light)
    return tile._replace(rows=min(tile.rows, 64), columns=min(tile.columns, 32), warps=4, registers=0)


def row_owner_tile(arch: str, dtype: torch.dtype, width: int, precision: str, light: bool) -> Tile | None:
    """Tile of the row owner; None where the backward goes by blocks."""
    tile = _find(ROW_OWNER, arch, _kind(dtype, precision), width)
    if tile is None:
        return None
    narrow = not light and (width > 128 or family(arch) == "sm_100")
    return tile._replace(columns=min(tile.columns, 32) if narrow else tile.columns, depth=power_of_two(width))


def row_tile(width: int) -> Tile:
    """Tile of the kernels that visit every row once."""
    depth = min(power_of_two(width), 1024)
    return Tile(max(1, 2048 // depth), 1, depth, 4, 3)


def proxy_tile(arch: str, dtype: torch.dtype, width: int, precision: str, per_class: int) -> Tile:
    """Tile of the sweep over the classes, its columns classes."""
    tiles = PROXY_ONE if per_class == 1 else PROXY_SEVERAL
    tile = _shallow(_find(tiles, arch, _kind(dtype, precision), width), width)
    # the mask of a ragged last slab takes registers
    ragged = width > tile.depth and width % tile.depth
    return tile._replace(columns=tile.columns // 2) if ragged else tile


def centre_tile(width: int, by_depth: bool) -> Tile:
    """Tile of the kernels that visit every centre; ``by_depth``: the numbers of a centre are neighbours."""
    return row_tile(width) if by_depth else Tile(64, 1, min(power_of_two(width), 32), 8, 3)


def proxy_chunk(width: int, per_class: int, dtype: torch.dtype) -> int:
    """Classes whose centres are packed at once."""
    count = PROXY_PACKED // (width * per_class * dtype.itemsize)
    return max(PROXY_STEP, count // PROXY_STEP * PROXY_STEP)


def proxy_samples(per_class: int) -> int:
    """Samples of a block at most."""
    return max(1, min(PROXY_SAMPLES, PROXY_SIMILARITIES // (PROXY_STEP * per_class)))


def proxy_block(samples: int, per_class: int) -> int:
    """Classes of a block of that many samples, or of as many as a block may have."""
    count = PROXY_SIMILARITIES // (min(samples, proxy_samples(per_class)) * per_class)
    return max(PROXY_STEP, count // PROXY_STEP * PROXY_STEP)


def centroid_tile(arch: str, dtype: torch.dtype, width: int, precision: str) -> Tile:
    """Tile of the sweeps of rows over points."""
    return _shallow(_find(CENTROID, arch, _kind(dtype, precision), width), width)


def hinge_tile(arch: str, dtype: torch.dtype, width: int, precision: str) -> Tile:
    """Tile of the sweep that sums hinges."""
    tile = _find(HINGE_SUMS, arch, _kind(dtype, precision), width)
    return centroid_tile(arch, dtype, width, precision) if tile is None else _shallow(tile, width)


def hinge_points(rows: int) -> int:
    """Points of a block of weights of that many rows."""
    return max(HINGE_STEP, HINGE_PRODUCTS // rows // HINGE_STEP * HINGE_STEP)


def segment_tile(width: int) -> Tile:
    """Entries at a time, and how much of their width, of sums over segments."""
    return Tile(16, 1, min(power_of_two(width), 128), 4, 3)


def block_side(tensor: Tensor, count: int, tile: Tile) -> int:
    """Side of the blocks of weights for ``count`` rows: a multiple of the tile's, just enough for them."""
    largest = BLOCK_SIDE[tensor.element_size()] if tensor.is_cuda else 2 * max(tile.rows, tile.columns)
    step = max(tile.rows, tile.columns)
    return min(largest, cdiv(count, step) * step)


def column_splits(tensor: Tensor, row_blocks: int, column_tiles: int) -> int:
    """Programs that share the columns of a row block, so that few rows still fill the device."""
    wanted = 2 * processors(tensor) // row_blocks
    return max(1, min(wanted, column_tiles // 2, 16))


def class_splits(tensor: Tensor, row_blocks: int, class_tiles: int) -> int:
    """Programs that share the classes of a chunk, for a block of samples."""
    return max(1, min(2 * processors(tensor) // row_blocks, class_tiles))


def cdiv(count: int, size: int) -> int:
    """How many pieces of ``size`` hold ``count``. Triton's own takes the host microseconds a call."""
    return -(-count // size)


def padded(count: int) -> int:
    """The least number of a row's places that holds ``count`` and leaves the next row aligned."""
    return cdiv(count, ALIGNED_NUMBERS) * ALIGNED_NUMBERS


def power_of_two(n: int, least: int = 16) -> int:
    """The smallest power of two that is at least ``n`` and ``least``."""
    return max(least, 1 << (n - 1).bit_length())


def arch(tensor: Tensor) -> str:
    """Architecture that runs kernels on this tensor, such as "sm_90"; "interpreter" for CPU tensors."""
    return _device(tensor.device.index)[0] if tensor.is_cuda else "interpreter"


def processors(tensor: Tensor) -> int:
    """Multiprocessors of the tensor's device."""
    return _device(tensor.device.index)[1] if tensor.is_cuda else 1


@functools.cache
def _device(index: int) -> tuple[str, int]:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return properties.gcnArchName.split(":")[0], properties.multi_processor_count
    return f"sm_{properties.major}{properties.minor}", properties.multi_processor_count
