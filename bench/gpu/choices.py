"""What triton_kernels/configs.py chose by arithmetic, measured against alternatives: what all engines share.

A choice is a name and the constants of configs.py that it puts in place of the shipped ones; "shipped": none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

import fastdml
from bench.gpu.timings import Timings
from bench.interleaved import BROKEN_OFF, SHORT, TINY
from bench.memory import take_step
from bench.turns import Clocked, TrainingTurn
from bench.workload import Workload
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.configs import Tile

HOPPER = ("sm_90", "half")
FEW = 128
"""Samples, and classes, of a batch that only compiles: the kernels are the same for any number."""
Constants = Mapping[str, Any]
Loss = Callable[[Tensor, Tensor], Tensor]


def tiles(table: str, tile: Tile | None) -> dict[str, Any]:
    """A table in which 16-bit products on sm_90 take this tile for any D; None: it has none."""
    return {table: getattr(configs, table) | {HOPPER: [] if tile is None else [(None, tile)]}}


def in_place(constants: Constants) -> AbstractContextManager[Any]:
    """These constants in place of those that configs.py ships."""
    return mock.patch.multiple(configs, **constants) if constants else nullcontext()


class ChosenTurn(TrainingTurn):
    """Forward and backward with other constants."""

    def __init__(self, loss: Loss, work: Workload, constants: Constants) -> None:
        super().__init__(loss, work.make())
        self.constants = constants
        self.step()  # compiles

    def step(self) -> Clocked:
        with in_place(self.constants):
            return super().step()


def try_once(loss: Loss, work: Workload, constants: Constants) -> None:
    """A step of Triton's kernels with these constants, which compiles what a comparison would wait for."""
    with in_place(constants), fastdml.use_backend("triton"):
        take_step(loss, *work.make())


class Comparison:
    """A command that measures choices and merges them into a results file, size by size.

    Args:
        name: of the results file and of the command.
        description: what the command says of itself.
        arguments: of the command line.
    """

    def __init__(self, name: str, description: str | None, arguments: Sequence[str] | None) -> None:
        parser = argparse.ArgumentParser(prog=f"python -m bench.gpu.{name}", description=description)
        parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
        parser.add_argument(
            "--backend", default="triton", help="one without these constants shows that it runs"
        )
        parser.add_argument("--tiny", action="store_true", help="one small size, to see that it runs")
        parser.add_argument("--seconds", type=float, default=240, help="after which no size is begun")
        parser.add_argument("--out", type=Path, required=True, help="the results file")
        self.options = parser.parse_args(arguments)
        protocol = TINY if self.options.tiny else SHORT
        self.timings = Timings(name, self.options.device, protocol, self.options.out)
        self.begun, self.status = time.perf_counter(), 0

    def measure(
        self, sizes: Sequence[Workload], loss: str, make: Loss, choices: Mapping[str, Constants]
    ) -> None:
        """Times all choices of a loss against each other at these sizes."""
        for work in sizes:
            if time.perf_counter() - self.begun > self.options.seconds:
                print(f"{work}: {loss}: not begun, the time is up")
                self.status = BROKEN_OFF
                continue
            with fastdml.use_backend(self.options.backend):
                self.timings.measure(
                    work,
                    {
                        f"{loss}/{name}": partial(ChosenTurn, make, work, constants)
                        for name, constants in choices.items()
                    },
                )
