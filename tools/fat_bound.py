"""How far FAT lies above the loss over all triplets that it bounds: prints the table of docs/fat.md."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.losses import FastApproximatedTripletLoss, TripletMarginLoss

CLASSES, PER_CLASS, WIDTH, MARGIN = 32, 8, 64, 0.1
SPREADS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Lengths of the noise of a sample over those of the means of classes."""
DRAWS = 20


class Bound(NamedTuple):
    """Means over draws of batches."""

    spread: float
    exact: float
    """Mean of ``[d(a, p) - d(a, n) + m]_+`` over all triplets."""
    tight: float
    """Mean over the same of ``[d(a, c_a) - d(a, c_n) + m]_+ + d(p, c_a) + d(n, c_n)``."""
    fat: float
    """FAT with twice the radius, the largest distance of a member."""


def measure(spread: float) -> Bound:
    """The three on fresh batches; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([torch.stack(_of_batch(*_batch(spread, generator))) for _ in range(DRAWS)])
    return Bound(spread, *found.mean(dim=0).tolist())


def _batch(spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    means = F.normalize(torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64), dim=1)
    noise = F.normalize(torch.randn(len(labels), WIDTH, generator=generator, dtype=torch.float64), dim=1)
    return F.normalize(means[labels] + spread * noise, dim=1), labels


def _of_batch(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    exact = TripletMarginLoss(MARGIN, reducer="mean")(rows, labels)
    centroids = F.normalize(rows.unflatten(0, (CLASSES, PER_CLASS)).mean(dim=1), dim=1)
    apart = torch.cdist(rows, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    to_own = apart.gather(1, labels[:, None])
    other = torch.arange(CLASSES)[None, :] != labels[:, None]
    # classes are of one size: means over triplets are means over anchors, classes and members
    tight = F.relu(to_own - apart + MARGIN)[other].mean() + 2 * to_own.mean()
    return exact, tight, FastApproximatedTripletLoss(MARGIN, radius_weight=2.0)(rows, labels)


def table() -> list[str]:
    """Lines of Markdown."""
    lines = ["| noise | all triplets | tight bound | FAT, twice the radius |", "|---|---|---|---|"]
    for found in map(measure, SPREADS):
        lines.append(f"| {found.spread:g} | {found.exact:.4f} | {found.tight:.4f} | {found.fat:.4f} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
