"""What triton_kernels/configs.py chose for the proxy engine by arithmetic, against its alternatives.

``python -m bench.gpu.proxy_choices --out FILE``; providers are the choices, "shipped" is what there is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from bench.gpu.choices import FEW, Comparison, Constants, tiles, try_once
from bench.gpu.side_by_side import Task
from bench.proxy_peers import CENTRES, CLASSES_ON_CUDA, WithCentres
from bench.workload import Workload
from fastdml.losses import ArcFaceLoss, SoftTripleLoss
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.configs import Tile

CONTEST = "proxy_choices"
_class_splits = configs.class_splits


def _more_programs(tensor: Tensor, row_blocks: int, class_tiles: int) -> int:
    """Twice as many that share the classes of a chunk."""
    return min(class_tiles, 2 * _class_splits(tensor, row_blocks, class_tiles))


BLOCKS: dict[str, Constants] = {
    "shipped": {},
    "weights 4 x 256": {"PROXY_WEIGHTS": Tile(4, 256, 1, 4, 1)},
    "weights 16 x 64": {"PROXY_WEIGHTS": Tile(16, 64, 1, 4, 1)},
    "weights 8 x 128, 8 warps": {"PROXY_WEIGHTS": Tile(8, 128, 1, 8, 1)},
    "16 MB of similarities": {"PROXY_SIMILARITIES": 1 << 22},
    "128 MB of similarities": {"PROXY_SIMILARITIES": 1 << 25},
    "1 GB of similarities": {"PROXY_SIMILARITIES": 1 << 28},
    "blocks of 2048 samples": {"PROXY_SAMPLES": 2048},
    "16 MB of centres": {"PROXY_PACKED": 1 << 24},
    "128 MB of centres": {"PROXY_PACKED": 1 << 27},
    "twice the programs": {"class_splits": _more_programs},
}
CHOICES: Mapping[str, tuple[Callable[..., Any], Mapping[str, Constants]]] = {
    "soft-triple": (
        partial(SoftTripleLoss, centers_per_class=CENTRES),
        BLOCKS
        | {
            "sums 128 x 64 x 64": tiles("PROXY_SEVERAL", Tile(128, 64, 64, 8, 4)),
            "sums 128 x 64 x 128": tiles("PROXY_SEVERAL", Tile(128, 64, 128, 8, 3)),
            "sums 64 x 64 x 512": tiles("PROXY_SEVERAL", Tile(64, 64, 512, 8, 2)),
        },
    ),
    "arcface": (
        ArcFaceLoss,
        BLOCKS
        | {
            "sums 128 x 128 x 64": tiles("PROXY_ONE", Tile(128, 128, 64, 8, 4)),
            "sums 128 x 128 x 128": tiles("PROXY_ONE", Tile(128, 128, 128, 8, 3)),
            "sums 128 x 32 x 512": tiles("PROXY_ONE", Tile(128, 32, 512, 8, 2)),
        },
    ),
}
"""By loss: what makes it, and what is put in place of the shipped constants."""
SIZES = ((256, 64), (1024, 512), (4096, 512))


def trials(device: str) -> list[Task]:
    """A step of each choice, for another process."""
    widths = dict.fromkeys(width for _, width in SIZES)
    return [
        Task(_try, (device, width, loss, name))
        for loss, (_, choices) in CHOICES.items()
        for name in choices
        for width in widths
    ]


def _try(device: str, width: int, loss: str, name: str) -> None:
    make, choices = CHOICES[loss]
    try_once(WithCentres(make, FEW), Workload(FEW, width, "bfloat16", device), choices[name])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all choices."""
    comparison = Comparison(CONTEST, __doc__, arguments)
    options = comparison.options
    sizes, classes, dtype = (
        (((32, 16),), 40, "float32") if options.tiny else (SIZES, CLASSES_ON_CUDA, "bfloat16")
    )
    works = [Workload(samples, width, dtype, options.device) for samples, width in sizes]
    for loss, (make, choices) in CHOICES.items():
        comparison.measure(works, loss, WithCentres(make, classes), choices)
    return comparison.status


if __name__ == "__main__":
    sys.exit(main())
