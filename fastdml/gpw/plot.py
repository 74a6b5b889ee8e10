"""Weight against similarity, the picture of a pair loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastdml.gpw.weights import PairWeights

PULL, PUSH = "#0b5cd5", "#b35900"


def draw(
    weights: PairWeights,
    axes: Axes | None = None,
    *,
    colours: tuple[str, str] = (PULL, PUSH),
    size: float = 22,
    alpha: float = 0.75,
    scale: float = 1.0,
) -> Axes:
    """Draws one point a pair: negatives, which are pushed, above 0; positives, which are pulled, below.

    Args:
        weights: what :func:`fastdml.gpw.weights` returned.
        axes: where to; None makes new ones.
        colours: of positives and of negatives.
        size: area of a point, in points squared.
        alpha: opacity of the points.
        scale: what weights are multiplied with.

    Returns:
        The axes.
    """
    if axes is None:
        axes = plt.subplots()[1]
        axes.set_xlabel("similarity S")
        axes.set_ylabel("weight dL/dS")
    axes.axhline(0, color="0.5", linewidth=0.8, zorder=1)
    sides = (("negatives, pushed", weights.negative, colours[1], "o"),
             ("positives, pulled", weights.positive, colours[0], "D"))  # fmt: skip
    for name, pairs, colour, marker in sides:
        axes.scatter(
            weights.similarity[pairs].cpu().numpy(), scale * weights.weight[pairs].cpu().numpy(),
            s=size, c=colour, marker=marker, alpha=alpha, linewidths=0, label=name, zorder=3, clip_on=False,
        )  # fmt: skip
    return axes
