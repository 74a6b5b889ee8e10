"""What triton_kernels/configs.py chose for the proxy engine by arithmetic, against its alternatives.

``python -m bench.gpu.proxy_choices --out FILE``; providers are the choices, "shipped" is what there is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

import fastdml
from bench.gpu.timings import SHORT, Timings
from bench.interleaved import TINY
from bench.proxy_peers import CENTRES, CLASSES_ON_CUDA, WithCentres
from bench.turns import Clocked, TrainingTurn
from bench.workload import Workload
from fastdml.losses import ArcFaceLoss, SoftTripleLoss
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.configs import Tile

CONTEST = "proxy_choices"
HOPPER = ("sm_90", "half")


def _tile(table: str, tile: Tile) -> dict[str, Any]:
    """One table of tiles, in which 16-bit products on sm_90 take this one for any D."""
    return {table: getattr(configs, table) | {HOPPER: [(None, tile)]}}


SHIPPED: Mapping[str, Any] = {
    name: getattr(configs, name)
    for name in ("PROXY_SEVERAL", "PROXY_ONE", "PROXY_WEIGHTS", "PROXY_PACKED", "PROXY_SIMILARITIES",
                 "PROXY_SAMPLES", "class_splits")
}  # fmt: skip


def _more_programs(tensor: Tensor, row_blocks: int, class_tiles: int) -> int:
    """Twice as many that share the classes of a chunk."""
    return min(class_tiles, 2 * SHIPPED["class_splits"](tensor, row_blocks, class_tiles))


BLOCKS: dict[str, Mapping[str, Any]] = {
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
CHOICES: Mapping[str, tuple[Callable[..., Any], Mapping[str, Mapping[str, Any]]]] = {
    "soft-triple": (
        partial(SoftTripleLoss, centers_per_class=CENTRES),
        BLOCKS
        | {
            "sums 128 x 64 x 64": _tile("PROXY_SEVERAL", Tile(128, 64, 64, 8, 4)),
            "sums 128 x 64 x 128": _tile("PROXY_SEVERAL", Tile(128, 64, 128, 8, 3)),
            "sums 64 x 64 x 512": _tile("PROXY_SEVERAL", Tile(64, 64, 512, 8, 2)),
        },
    ),
    "arcface": (
        ArcFaceLoss,
        BLOCKS
        | {
            "sums 128 x 128 x 64": _tile("PROXY_ONE", Tile(128, 128, 64, 8, 4)),
            "sums 128 x 128 x 128": _tile("PROXY_ONE", Tile(128, 128, 128, 8, 3)),
            "sums 128 x 32 x 512": _tile("PROXY_ONE", Tile(128, 32, 512, 8, 2)),
        },
    ),
}
"""By loss: what makes it, and what is put in place of the shipped constants."""
SIZES = ((256, 64), (1024, 512), (4096, 512))


class ChosenTurn(TrainingTurn):
    """Forward and backward with other constants."""

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], work: Workload, constants: Mapping[str, Any]
    ) -> None:
        super().__init__(loss, work.make())
        self.constants = {**SHIPPED, **constants}
        self.step()  # compiles

    def step(self) -> Clocked:
        with mock.patch.multiple(configs, **self.constants):
            return super().step()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all choices."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.proxy_choices", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--backend", default="triton", help="one without these constants shows that it runs")
    parser.add_argument("--tiny", action="store_true", help="one small size, to see that it runs")
    parser.add_argument("--out", type=Path, required=True, help="the results file")
    options = parser.parse_args(arguments)
    timings = Timings(CONTEST, options.device, TINY if options.tiny else SHORT, options.out)
    sizes, classes, dtype = (
        (((32, 16),), 40, "float32") if options.tiny else (SIZES, CLASSES_ON_CUDA, "bfloat16")
    )
    for loss, (make, choices) in CHOICES.items():
        for samples, width in sizes:
            work = Workload(samples, width, dtype, options.device)
            with_centres = WithCentres(make, classes)
            with fastdml.use_backend(options.backend):
                timings.measure(
                    work,
                    {
                        f"{loss}/{name}": partial(ChosenTurn, with_centres, work, constants)
                        for name, constants in choices.items()
                    },
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
