"""Published figures of the same losses on another data set, to compare the order with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastdml.training.comparison.table import COLUMNS, Row

TITLE = "Published figures: CUB-200-2011, 64-d, another backbone"
ABOUT = (
    "Not measured here. Birds instead of this data set, a network pretrained on ImageNet instead of a small "
    "one from scratch, other batches, budgets and settings for every loss: only the order can be compared, "
    "and even that with care. All rows but the last as in the table of the SoftTriple paper (Qian et al., "
    "ICCV 2019, arXiv 1909.05235); the last from the Multi-Similarity paper (Wang et al., CVPR 2019, arXiv "
    "1904.06627), of which only Recall@1 is quoted."
)


@dataclass(frozen=True)
class Published:
    """A published row: its name there, the catalogue's name, R@1, R@2, R@4, R@8 and NMI in percent."""

    name: str
    loss: str
    figures: tuple[float | None, ...]


@dataclass(frozen=True)
class Ranked:
    """A published row with its rank there and here, by Recall@1 among the losses that are in both tables.

    Ranks are None where the loss was not compared here.
    """

    published: Published
    rank_there: int | None
    rank_here: int | None
    recall_here: float | None

    def to_dict(self) -> dict[str, Any]:
        """For comparison.json."""
        return {
            "name": self.published.name,
            "loss": self.published.loss,
            **dict(zip(COLUMNS, self.published.figures, strict=True)),
            "rank_there": self.rank_there,
            "rank_here": self.rank_here,
        }


PUBLISHED = (
    Published("SemiHard", "triplet-semihard", (42.6, 55.0, 66.4, 77.2, 55.4)),
    Published("LiftedStruct", "lifted", (43.6, 56.6, 68.6, 79.6, 56.5)),
    Published("Clustering", "clustering", (48.2, 61.4, 71.8, 81.9, 59.2)),
    Published("N-pairs", "n-pairs", (51.0, 63.3, 74.3, 83.2, 60.4)),
    Published("ProxyNCA", "proxy-nca", (49.2, 61.9, 67.9, 72.4, 59.5)),
    Published("SoftMax_norm", "normalised-softmax", (57.8, 70.0, 80.1, 87.9, 65.3)),
    Published("SoftTriple", "soft-triple", (60.1, 71.9, 81.2, 88.5, 66.2)),
    Published("MS", "multi-similarity", (57.4, None, None, None, None)),
)


def ranked(rows: Sequence[Row]) -> list[Ranked]:
    """The published rows as they were printed, each with its two ranks; 1 is the best."""
    here = {row.loss: row.recall_at_1 for row in rows if row.figures}
    shared = [one for one in PUBLISHED if one.loss in here]
    there = sorted(shared, key=lambda one: -(one.figures[0] or 0.0))
    ours = sorted(shared, key=lambda one: -here[one.loss])
    return [
        Ranked(one, there.index(one) + 1, ours.index(one) + 1, here[one.loss])
        if one in shared
        else Ranked(one, None, None, None)
        for one in PUBLISHED
    ]
