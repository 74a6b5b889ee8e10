"""SoftTriple over batch and number of classes: where the dense form is faster than the fused one.

``python -m bench.gpu.proxy_classes --out FILE``; providers are called "<classes> classes/<contestant>".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import fastdml
from bench.gpu.timings import Timings
from bench.interleaved import SHORT, TINY
from bench.peers import Contestant, Function, check_agreement, disagreements
from bench.proxy_peers import CENTRES, DenseSoftTriple, WithCentres
from bench.turns import TrainingTurn
from bench.workload import Workload
from fastdml.backends import registry
from fastdml.losses import SoftTripleLoss

CONTEST = "soft_triple_classes"
BATCHES = (32, 256, 1024, 4096)
CLASSES = (100, 1000, 11318, 113180)
WIDTHS = (64, 512)


def contestants(classes: int, device: str) -> list[Contestant]:
    """fastdml's backends of the device, and the dense form."""
    names = ("triton", "cuda") if device == "cuda" else ("cpu",)
    fused = [
        Contestant(f"fastdml-{name}", partial(_fused, name, classes), registry.reason_against(name))
        for name in names
    ]
    return [*fused, Contestant("dense", partial(_within, classes, WithCentres(DenseSoftTriple, classes)))]


def _fused(backend: str, classes: int) -> Function:
    loss = WithCentres(partial(SoftTripleLoss, centers_per_class=CENTRES), classes)

    def on_backend(embeddings: Tensor, labels: Tensor) -> Tensor:
        with fastdml.use_backend(backend):
            return loss(embeddings, labels)

    return _within(classes, on_backend)


def _within(classes: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """The loss, with labels folded into so many classes."""
    return lambda embeddings, labels: loss(embeddings, labels % classes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all sizes; 1 where a contestant computes something else."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.proxy_classes", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="two small sizes, to see that it runs")
    parser.add_argument("--out", type=Path, required=True, help="the results file")
    options = parser.parse_args(arguments)
    device, dtype = options.device, "float32" if options.tiny else "bfloat16"
    batches, counts, widths = ((32,), (10, 20), (16,)) if options.tiny else (BATCHES, CLASSES, WIDTHS)
    checked = check_agreement(
        contestants(100, device), device, samples=32, width=24, truth=_fused("reference", 100)
    )
    wrong = disagreements(checked)
    for name, why in wrong.items():
        print(f"{name} is not timed: {why}", flush=True)
    timings = Timings(CONTEST, device, TINY if options.tiny else SHORT, options.out)
    for width in widths:
        for classes in counts:
            # Centres are made once, and serve every batch.
            losses = {
                f"{classes} classes/{one.name}": one.make()
                for one in contestants(classes, device)
                if one.absent is None and one.name not in wrong
            }
            for samples in batches:
                work = Workload(samples, width, dtype, device)
                makers = {name: partial(_turn, loss, work) for name, loss in losses.items()}
                _tell(timings.measure(work, makers))
            del losses, makers
            if device == "cuda":
                torch.cuda.empty_cache()
    return 1 if wrong else 0


def _turn(loss: Function, work: Workload) -> TrainingTurn:
    turn = TrainingTurn(loss, work.make())
    turn.step()  # compiles
    return turn


def _tell(milliseconds: dict[str, float | None]) -> None:
    """Prints by how much the dense form is slower."""
    dense = next(value for name, value in milliseconds.items() if name.endswith("/dense"))
    for name, value in milliseconds.items():
        if dense and value and not name.endswith("/dense"):
            print(f"  {name}: the dense form takes {dense / value:.3g} x as long", flush=True)


if __name__ == "__main__":
    sys.exit(main())
