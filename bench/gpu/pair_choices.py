"""What triton_kernels/configs.py chose for the pair engine by arithmetic, against its alternatives.

``python -m bench.gpu.pair_choices --out FILE``; Multi-Similarity with mining in bfloat16. What each choice is
expected to do stands in docs/performance.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bench.gpu.choices import FEW, Comparison, Constants, tiles, try_once
from bench.gpu.side_by_side import Task
from bench.workload import Workload
from fastdml.losses import MultiSimilarityLoss
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.configs import Tile

CONTEST = "pair_choices"


def _programs(change: Callable[[int], int]) -> dict[str, Any]:
    """Another number of programs that share the columns of a row block."""
    shipped = configs.column_splits

    def column_splits(tensor: Tensor, row_blocks: int, column_tiles: int) -> int:
        return max(1, min(change(shipped(tensor, row_blocks, column_tiles)), column_tiles))

    return {"column_splits": column_splits}


def _side(bytes_of_a_block: int) -> dict[str, Any]:
    """Blocks of weights of another size."""
    return {"BLOCK_SIDE": {size: int((bytes_of_a_block / size) ** 0.5) for size in configs.BLOCK_SIDE}}


PROGRAMS: dict[str, Constants] = {
    "half the programs": _programs(lambda splits: splits // 2),
    "twice the programs": _programs(lambda splits: 2 * splits),
}
CHOICES: Mapping[int, Mapping[str, Constants]] = {
    128: {
        "shipped": {},
        "sums 128 x 128 x 128, registers free": tiles("FORWARD", Tile(128, 128, 128, 8, 2)),
        "sums 128 x 256 x 128": tiles("FORWARD", Tile(128, 256, 128, 8, 2)),
        "sums 64 x 128 x 128, 4 warps": tiles("FORWARD", Tile(64, 128, 128, 4, 3)),
        "owner 128 x 128": tiles("ROW_OWNER", Tile(128, 128, 0, 8, 2)),
        "owner 128 x 32": tiles("ROW_OWNER", Tile(128, 32, 0, 8, 4)),
        "owner 64 x 64, 4 warps": tiles("ROW_OWNER", Tile(64, 64, 0, 4, 3)),
        "owner 64 x 128, 4 warps": tiles("ROW_OWNER", Tile(64, 128, 0, 4, 2)),
        "blocks": tiles("ROW_OWNER", None),
        "labels sorted": {"COUNTED_ROWS": 0},
        **PROGRAMS,
    },
    256: {
        "shipped": {},
        "owner 128 x 32": tiles("ROW_OWNER", Tile(128, 32, 0, 8, 3)),
        "owner 64 x 64, 4 warps": tiles("ROW_OWNER", Tile(64, 64, 0, 4, 2)),
        "blocks": tiles("ROW_OWNER", None),
    },
    512: {
        "shipped": {},
        "sums 128 x 256 x 64, 4 stages": tiles("FORWARD", Tile(128, 256, 64, 8, 4)),
        "sums 128 x 128 x 128": tiles("FORWARD", Tile(128, 128, 128, 8, 3)),
        "sums 64 x 256 x 64, 4 warps": tiles("FORWARD", Tile(64, 256, 64, 4, 4)),
        "weights 128 x 64 x 64": tiles("BLOCK", Tile(128, 64, 64, 8, 3)),
        "weights 128 x 128 x 64, 4 stages": tiles("BLOCK", Tile(128, 128, 64, 8, 4)),
        "weights 64 x 64 x 64, 4 warps": tiles("BLOCK", Tile(64, 64, 64, 4, 4)),
        "blocks of 8 MB": _side(1 << 23),
        "blocks of 128 MB": _side(1 << 27),
        "blocks of 512 MB": _side(1 << 29),
        **PROGRAMS,
    },
}
"""By the width of the embeddings: what is put in place of the shipped constants."""
SIZES = ((512, 128), (2048, 128), (16384, 512), (16384, 128), (16384, 256), (512, 512), (65536, 512))
"""N and D, in the order of what they decide."""


def trials(device: str) -> list[Task]:
    """A step of each choice, for another process."""
    return [Task(_try, (device, width, name)) for width, choices in CHOICES.items() for name in choices]


def _try(device: str, width: int, name: str) -> None:
    work = Workload(FEW, width, "bfloat16", device)
    try_once(MultiSimilarityLoss(epsilon=0.1), work, CHOICES[width][name])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all choices."""
    comparison = Comparison(CONTEST, __doc__, arguments)
    options = comparison.options
    sizes, dtype = (((32, 128),), "float32") if options.tiny else (SIZES, "bfloat16")
    for samples, width in sizes:
        work = Workload(samples, width, dtype, options.device)
        comparison.measure([work], "multi-similarity", MultiSimilarityLoss(epsilon=0.1), CHOICES[width])
    return comparison.status


if __name__ == "__main__":
    sys.exit(main())
