"""Draw the pair weights of every loss for one anchor, as docs/pair-weights.md shows them.

    python tools/plot_weights.py --out docs/figures

Writes weights-light.svg and weights-dark.svg; the same bytes from the same versions of torch and matplotlib.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from bench.figures import FONTS, write_svg
from fastdml import losses
from fastdml.gpw import PairWeights, weights
from fastdml.miners import MultiSimilarityMiner
from fastdml.miners.base import Miner

CLASSES, SAMPLES, WIDTH = 12, 12, 96
SEED = 3
ANCHOR, MOVED, HARD = 0, SAMPLES * 4 + 1, 0.82
"""The anchor; the negative that is moved, second of its class, as N-pairs takes no other; and to where."""


class Panel(NamedTuple):
    """A loss, what the push of a negative depends on, in the words of the paper, and a miner of its pairs."""

    loss: losses.PairLoss
    depends: str
    miner: Miner | None = None


SELF, SELF_NEGATIVE, SELF_POSITIVE = "self", "self, negative-relative", "self, positive-relative"
ALL = "self, negative- and positive-relative"
PANELS: dict[str, Panel] = {
    "Contrastive": Panel(losses.ContrastiveLoss(reducer="sum"), SELF),
    "Binomial deviance": Panel(losses.BinomialDevianceLoss(reducer="sum"), SELF),
    "Margin": Panel(losses.MarginLoss(reducer="sum"), SELF),
    "Triplet": Panel(losses.TripletMarginLoss(0.2, reducer="sum"), SELF_POSITIVE),
    "Generalised lifted": Panel(losses.GeneralizedLiftedStructureLoss(reducer="sum"), SELF_NEGATIVE),
    "Multi-Similarity": Panel(losses.MultiSimilarityLoss(reducer="sum"), SELF_NEGATIVE),
    "Multi-Similarity, mined": Panel(
        losses.MultiSimilarityLoss(reducer="sum"), ALL, MultiSimilarityMiner(0.1)
    ),
    "Lifted structure": Panel(losses.LiftedStructureLoss(reducer="sum"), ALL),
    "N-pairs": Panel(losses.NPairsLoss(reducer="sum"), ALL),
    "NT-Xent": Panel(losses.NTXentLoss(reducer="sum"), ALL),
    "SupCon": Panel(losses.SupConLoss(reducer="sum"), ALL),
    "Circle": Panel(losses.CircleLoss(reducer="sum"), ALL),
}


class Look(NamedTuple):
    """Colours, readable on GitHub's background of that theme."""

    ink: str
    soft: str
    grid: str
    pull: str
    push: str


LOOKS = {
    "light": Look("#1f2328", "#59636e", "#d8dee4", "#0b5cd5", "#b35900"),
    "dark": Look("#e6edf3", "#9198a1", "#30363d", "#6cb0ff", "#f0a35e"),
}


def batch(hard: float | None = None) -> tuple[Tensor, Tensor]:
    """Unit rows [N, D] and labels; one negative of the anchor has similarity ``hard`` where that is given."""
    random = torch.Generator().manual_seed(SEED)
    labels = torch.arange(CLASSES).repeat_interleave(SAMPLES)
    similarity = torch.empty(CLASSES * SAMPLES, dtype=torch.float64)
    similarity[1:SAMPLES] = torch.linspace(0.3, 0.92, SAMPLES - 1)[
        torch.randperm(SAMPLES - 1, generator=random)
    ]
    count = len(similarity) - SAMPLES
    similarity[SAMPLES:] = (torch.randn(count, generator=random) * 0.24 + 0.08).clamp(-0.45, 0.66)
    similarity[1] = 0.5  # the positive of N-pairs
    if hard is not None:
        similarity[MOVED] = hard
    centres = torch.randn(CLASSES, WIDTH - 1, generator=random, dtype=torch.float64)
    apart = centres[labels] + torch.randn(len(labels), WIDTH - 1, generator=random, dtype=torch.float64)
    apart = apart / apart.norm(dim=1, keepdim=True) * (1 - similarity * similarity).sqrt()[:, None]
    rows = torch.cat([similarity[:, None], apart], dim=1)
    rows[ANCHOR] = torch.nn.functional.one_hot(torch.tensor(0), WIDTH).double()
    return rows, labels


def measure(panel: Panel) -> tuple[PairWeights, PairWeights]:
    """The anchor's weights, and those once a negative has come close."""

    def of(rows: Tensor, labels: Tensor) -> PairWeights:
        mined = None if panel.miner is None else panel.miner(rows, labels)
        return weights(panel.loss, rows, labels, ANCHOR, indices_tuple=mined)

    return of(*batch()), of(*batch(HARD))


def draw(look: Look, measured: dict[str, tuple[PairWeights, PairWeights]]) -> Figure:
    columns = 4
    rows = math.ceil(len(measured) / columns)
    figure = Figure(figsize=(11.2, 2.55 * rows + 0.75))
    figure.subplots_adjust(
        left=0.05, right=0.985, top=1 - 0.95 / (2.55 * rows + 0.75), bottom=0.065, hspace=0.5, wspace=0.16
    )
    for at, (name, (before, after)) in enumerate(measured.items()):
        axes = figure.add_subplot(rows, columns, at + 1)
        _draw_panel(axes, look, name, before, after)
        if at % columns == 0:
            axes.set_ylabel("pull         push", color=look.soft, fontsize=9.5)
        if at // columns == rows - 1:
            axes.set_xlabel("similarity S", color=look.soft, fontsize=9.5)
    _draw_key(figure, look)
    return figure


def _draw_panel(axes: Any, look: Look, name: str, before: PairWeights, after: PairWeights) -> None:
    axes.axhline(0, color=look.soft, linewidth=0.8, zorder=2)
    for pairs, colour in ((before.negative, look.push), (before.positive, look.pull)):
        largest = max(weights.weight[pairs].abs().max().item() for weights in (before, after))
        own, moved = (weights.weight[pairs] / largest for weights in (before, after))
        counts = own.abs() > 0.003
        style: dict[str, Any] = {"clip_on": False, "zorder": 3, "linewidths": 0, "color": colour}
        axes.scatter(before.similarity[pairs][~counts], own[~counts], s=9, alpha=0.3, **style)
        axes.scatter(before.similarity[pairs][counts], own[counts], s=17, **style)
        changed = (moved - own).abs() > 0.02
        axes.scatter(
            after.similarity[pairs][changed], moved[changed], s=34, facecolors="none", edgecolors=colour,
            linewidths=0.9, clip_on=False, zorder=4,
        )  # fmt: skip
    axes.set_xlim(-0.5, 1)
    axes.set_ylim(-1.1, 1.1)
    axes.set_xticks([-0.5, 0, 0.5, 1], ["-0.5", "0", "0.5", "1"])
    axes.set_yticks([-1, 0, 1], [])
    axes.grid(True, color=look.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=look.soft, labelsize=8.5, length=0, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.text(0, 1.13, name, transform=axes.transAxes, color=look.ink, fontsize=11, fontweight="bold")
    axes.text(0, 1.035, PANELS[name].depends, transform=axes.transAxes, color=look.soft, fontsize=8.8)


def _draw_key(figure: Figure, look: Look) -> None:
    def point(colour: str, filled: bool) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker="o", markersize=5.5, markeredgecolor=colour,
            markerfacecolor=colour if filled else "none", markeredgewidth=0 if filled else 0.9,
        )  # fmt: skip

    names = ("negatives, pushed away", "positives, pulled closer",
             f"what changes once one negative has come to S = {HARD}")  # fmt: skip
    figure.legend(
        [point(look.push, True), point(look.pull, True), point(look.soft, False)], names, loc="upper left",
        bbox_to_anchor=(0.04, 1.0), ncols=3, frameon=False, labelcolor=look.ink, fontsize=10,
        handletextpad=0.2, columnspacing=2.2,
    )  # fmt: skip


def write(folder: Path) -> None:
    """Writes the figure for light and for dark pages."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = {name: measure(panel) for name, panel in PANELS.items()}
    for theme, look in LOOKS.items():
        with matplotlib.rc_context(FONTS):
            write_svg(draw(look, measured), folder / f"weights-{theme}.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    write(parser.parse_args().out)
