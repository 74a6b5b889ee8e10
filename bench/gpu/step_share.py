"""How much of a training step the loss takes, where the batch is as large as a network can be given it.

    python -m bench.gpu.step_share

A step of `fastdml train` by itself, without reading data: 65,536 images of 32 x 32 through the small network,
in chunks, and 65,536 features of 512 through a head, both with Multi-Similarity and mining, in bf16. Seconds
are medians over steps, by part.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from bench import machine
from fastdml import losses
from fastdml.training.backbone_head import FeatureNetwork
from fastdml.training.large_step import LargeStep, Piece, Update
from fastdml.training.network import EmbeddingNetwork
from fastdml.training.processes import Processes
from fastdml.training.views import Views

PER_CLASS = 8


@dataclass(frozen=True)
class Case:
    """A step: ``kind`` is "images" (of 32 x 32) or "features" (of ``width``); embeddings are of ``dim``."""

    kind: str
    batch: int
    chunk: int
    width: int
    dim: int


CASES = (
    Case("images", 65536, 8192, 32, 64),
    Case("images", 65536, 8192, 32, 512),
    Case("features", 65536, 65536, 512, 128),
    Case("features", 65536, 65536, 512, 512),
)
TINY = (Case("images", 64, 16, 4, 8), Case("features", 64, 64, 16, 8))


def measure(case: Case, device: torch.device, steps: int, precision: str) -> dict[str, Any]:
    """Median seconds of a step by part, and the share of the loss."""
    torch.manual_seed(0)
    model: nn.Module
    if case.kind == "images":
        model = EmbeddingNetwork(case.dim, case.width)
        stored = torch.randint(256, (case.batch, 1, 32, 32), dtype=torch.uint8)
    else:
        model = FeatureNetwork(case.width, case.dim)
        stored = torch.randn(case.batch, case.width)
    model = model.to(device).train()
    loss = losses.MultiSimilarityLoss(epsilon=0.1)
    labels = torch.arange(case.batch, device=device) // PER_CLASS
    rows = torch.arange(case.batch)
    stored, count = stored.to(device), -(-case.batch // case.chunk)
    pieces = [Piece(number, rows[number::count], stored[number::count], count) for number in range(count)]
    step = LargeStep(
        model, loss, torch.optim.AdamW(model.parameters()), Processes(device), Views(), 0, precision,
        lambda text: print(text, flush=True), lambda done, total: None,
    )  # fmt: skip
    made = [step(number, pieces, lambda found, _: loss(found, labels)) for number in range(1, steps + 1)]
    seconds = {name: _median(made[steps // 3 :], name) for name in ("network", "loss", "update")}
    return {
        **vars(case),
        "precision": precision,
        "seconds": seconds,
        "share_of_loss": seconds["loss"] / sum(seconds.values()),
    }


def _median(updates: list[Update], part: str) -> float:
    return median(getattr(update, f"{part}_seconds") for update in updates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="to see that it runs")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cases = TINY if options.tiny else CASES
    device = torch.device(options.device)
    found = [measure(case, device, options.steps, options.precision) for case in cases]
    content = {"contest": "step_share", **machine.describe(options.device), "cases": found}
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    for case in found:
        print(f"{case['kind']} {case['batch']} x {case['dim']}: the loss takes {case['share_of_loss']:.1%}")


if __name__ == "__main__":
    main()
