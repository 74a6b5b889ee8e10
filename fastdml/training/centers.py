"""What becomes of the centres of classes while a loss is trained, and which images each has drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdml.data import Split
from fastdml.losses.centered import CenteredLoss
from fastdml.training.evaluation import Lens, embed_with

DELTAS = (0.01, 0.1)
"""Centres of a class count as one where a chain of cosines above 1 - delta joins them."""
AT_RANDOM, BUSIEST = 2, 2
"""Classes whose images are shown: some at random, and those in which the most centres draw images."""


@dataclass
class CenterCounts:
    """How many different centres the classes have, by one delta.

    Attributes:
        delta: as in :meth:`fastdml.losses.centered.CenteredLoss.count_centers`.
        curve: (step, mean over the classes), from step 0 on.
        final: the number of every class when training ended.
    """

    delta: float
    curve: list[tuple[int, float]] = field(default_factory=list)
    final: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``classes_by_centers`` counts the classes of each number."""
        return {
            "delta": self.delta,
            "curve": [{"step": step, "mean": mean} for step, mean in self.curve],
            "classes_by_centers": dict(sorted(Counter(self.final).items())),
        }


@dataclass(frozen=True)
class Drawn:
    """A centre, as many as stand for one, and the images of its class that it is the most similar to.

    Attributes:
        centers: how many centres were merged into it.
        images: rows of the split, the most similar first.
        cosines: of these images.
    """

    centers: int
    images: list[int]
    cosines: list[float]


class CenterHistory:
    """The centres of a loss over a run.

    Args:
        loss: a loss with several centres a class.
        deltas: what centres are counted by; those that are one by the last draw images together.

    Attributes:
        per_class: centres of a class before training.
        counts: one for each delta.
        drawn: for every class, by its label in the training split, what its centres have drawn, the centre
            with the most images first; empty before :meth:`draw`.
        shown: labels of the classes whose images a report shows.
    """

    def __init__(self, loss: CenteredLoss, deltas: Sequence[float] = DELTAS) -> None:
        self.loss = loss
        self.per_class = loss.centers_per_class
        self.counts = [CenterCounts(delta) for delta in deltas]
        self.drawn: dict[int, list[Drawn]] = {}
        self.shown: list[int] = []

    def record(self, step: int) -> None:
        """Count the centres as they are after ``step`` steps."""
        for one in self.counts:
            found = self.loss.count_centers(one.delta)
            one.curve.append((step, float(found.double().mean())))
            one.final = found.tolist()

    def state_dict(self) -> dict[str, Any]:
        """The curves so far; plain numbers."""
        return {"curves": [one.curve for one in self.counts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the curves of `state_dict`."""
        for one, curve in zip(self.counts, state["curves"], strict=True):
            one.curve = [(int(step), float(mean)) for step, mean in curve]

    @torch.no_grad()
    def draw(self, model: nn.Module, split: Split, seed: int, lens: Lens | None = None) -> None:
        """Find the images that every centre has drawn.

        Args:
            model: the trained network.
            split: that it was trained on.
            seed: which classes are taken at random.
            lens: how images reach the network; None: as they are stored.
        """
        labels, classes = torch.unique(split.labels, return_inverse=True)
        embeddings, readable = embed_with(lens or Lens(), model, split, self.loss.centers.device)
        merged = self.loss.merge_centers(self.counts[-1].delta)
        for index, label in enumerate(labels.tolist()):
            rows = torch.nonzero((classes == index) & readable).squeeze(1)
            before, after = self.loss.centers_of(index), merged.centers_of(index)
            self.drawn[label] = drawn_images(before, after, embeddings[rows], rows)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self.shown = labels[order[:AT_RANDOM]].tolist()
        others = labels[order[AT_RANDOM:]].tolist()
        self.shown += sorted(others, key=lambda label: -self.used(label))[:BUSIEST]

    def used(self, label: int) -> int:
        """How many different centres of a class have drawn an image."""
        return sum(1 for one in self.drawn[label] if one.images)

    @property
    def mean_used(self) -> float | None:
        """The mean of :meth:`used` over the classes; None before :meth:`draw`."""
        return fmean(map(self.used, self.drawn)) if self.drawn else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``mean_used`` counts the centres that have drawn a training image."""
        counts = [one.to_dict() for one in self.counts]
        return {"per_class": self.per_class, "counts": counts, "mean_used": self.mean_used}


def center_history(loss: nn.Module) -> CenterHistory | None:
    """The history of the first loss inside ``loss`` that has several centres a class; None: there is none."""
    for part in loss.modules():
        if isinstance(part, CenteredLoss) and part.centers_per_class > 1:
            return CenterHistory(part)
    return None


def drawn_images(centers: Tensor, merged: Tensor, embeddings: Tensor, rows: Tensor) -> list[Drawn]:
    """Which images of a class its centres have drawn, the centre with the most first.

    Args:
        centers: [K, D], those of the class as they are stored.
        merged: [m, D], what they are merged into.
        embeddings: [n, D], those of images of the class.
        rows: [n], where these stand in their split.
    """
    units = F.normalize(merged.cpu().float(), dim=1)
    sizes = (F.normalize(centers.cpu().float(), dim=1) @ units.T).argmax(dim=1).bincount(minlength=len(units))
    cosines, chosen = (F.normalize(embeddings.float(), dim=1) @ units.T).max(dim=1)
    found = []
    for center, size in enumerate(sizes.tolist()):
        images = torch.nonzero(chosen == center).squeeze(1)
        images = images[cosines[images].argsort(descending=True, stable=True)]
        found.append(Drawn(size, rows[images].tolist(), cosines[images].tolist()))
    return sorted(found, key=lambda drawn: -len(drawn.images))
