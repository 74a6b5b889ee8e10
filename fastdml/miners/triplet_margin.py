"""Triplets by how far they violate a margin."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fastdml.engines.triplets import list_triplets
from fastdml.errors import InputError
from fastdml.miners.base import Compared, Mined, Miner

KINDS = ("all", "hard", "semihard", "easy")


class MinedTriplets(Mined):
    """Triplets within a window of violation: ``anchors, positives, negatives``."""

    length = 3

    def __init__(self, compared: Compared, kind: str, margin: float) -> None:
        super().__init__(compared)
        self.window = (kind, margin)

    def listing(self) -> tuple[Tensor, ...]:
        compared = self.compared
        return list_triplets(
            compared.embeddings, compared.labels, compared.ref_embeddings, compared.ref_labels,
            closeness=compared.closeness, mined=self.window,
        )  # fmt: skip


class TripletMarginMiner(Miner):
    """Keeps triplets by ``d_an - d_ap``, how much farther the negative is than the positive.

    Args:
        margin: "all" keeps triplets of at most this, "easy" the others.
        type_of_triplets: "all"; "hard", those of "all" whose negative is no farther than the positive;
            "semihard", the others of "all"; or "easy".
        distance: as :class:`~fastdml.miners.base.Miner`; by default the Euclidean distance of unit vectors.

    Handed to :class:`~fastdml.losses.TripletMarginLoss` the window is fused and no triplet is listed.
    """

    def __init__(self, margin: float = 0.2, type_of_triplets: str = "all", *, distance: Any = None) -> None:
        super().__init__(distance=distance)
        if not math.isfinite(margin):
            raise InputError(f"margin must be a finite number, got {margin!r}")
        if type_of_triplets not in KINDS:
            raise InputError(f"type_of_triplets must be one of {', '.join(KINDS)}, got {type_of_triplets!r}")
        self.margin, self.type_of_triplets = margin, type_of_triplets

    def choose(self, compared: Compared) -> MinedTriplets:
        return MinedTriplets(compared, self.type_of_triplets, self.margin)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, type_of_triplets={self.type_of_triplets!r}"
