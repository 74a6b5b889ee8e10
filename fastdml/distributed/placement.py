"""Which classes, and which of all centres, stand on which rank."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.losses.centers import Bucket, CenterLayout


def share(count: int, ranks: int, rank: int) -> range:
    """Which of ``count`` things are a rank's: in order, as many for each, the first ranks one more."""
    each, rest = divmod(count, ranks)
    first = rank * each + min(rank, rest)
    return range(first, first + each + (rank < rest))


class Placement:
    """Whole classes in order, as many on every rank, the first ranks one more where they do not divide.

    Args:
        layout: of the centres of all classes.
        ranks: over which they are divided.
    """

    def __init__(self, layout: CenterLayout, ranks: int) -> None:
        self.layout, self.ranks = layout, ranks

    @property
    def num_classes(self) -> int:
        return len(self.layout.counts)

    def classes(self, rank: int) -> slice:
        """Those of a rank; none where there are fewer classes than ranks."""
        held = share(self.num_classes, self.ranks, rank)
        return slice(held.start, held.stop)

    def class_counts(self) -> tuple[int, ...]:
        """How many classes every rank holds."""
        held = map(self.classes, range(self.ranks))
        return tuple(classes.stop - classes.start for classes in held)

    def layout_of(self, rank: int) -> CenterLayout:
        """Of the centres of a rank among themselves."""
        found = CenterLayout(self.layout.counts[self.classes(rank)])
        found.buckets = found.buckets or [Bucket(0, 0, 0, 1)]  # statistics of nothing are gathered too
        return found

    def centers(self, rank: int) -> Tensor:
        """[n] int64: where the centres of a rank, in their order there, stand among all."""
        by_place = self.layout.counts[self.layout.order]
        first_of_class = (by_place.cumsum(0) - by_place)[self.layout.place][self.classes(rank)]
        there = self.layout_of(rank)
        counts, firsts = there.counts[there.order], first_of_class[there.order]
        step = torch.arange(there.total) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        return firsts.repeat_interleave(counts) + step
