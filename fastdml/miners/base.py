"""What a miner returns: a selection that is fused where a loss can, and listed where it is read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, overload

import torch
from torch import Tensor, nn

from fastdml.backends.reference import compared_rows
from fastdml.distances import Distance, LpDistance, closeness_of
from fastdml.errors import InputError
from fastdml.functional import check_pairs
from fastdml.rules import Closeness, Selection

CPU_BLOCK, DEVICE_BLOCK = 1 << 18, 1 << 22
"""Pairs compared at a time while a selection is listed: about a cache on a CPU."""


class Compared(NamedTuple):
    """What was mined, with candidates or without, and what it is compared by."""

    closeness: Closeness
    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None
    ref_labels: Tensor | None

    @property
    def candidates(self) -> int:
        return len(self.embeddings if self.ref_embeddings is None else self.ref_embeddings)

    def blocks(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Blocks of anchors: the first's index, closeness [B, M], masks of positives and of negatives."""
        rows, squares = compared_rows(self.closeness, self.embeddings)
        if self.ref_embeddings is None or self.ref_labels is None:
            refs, ref_squares, ref_labels = rows, squares, self.labels
        else:
            refs, ref_squares = compared_rows(self.closeness, self.ref_embeddings)
            ref_labels = self.ref_labels
        height = max(1, (CPU_BLOCK if rows.is_cpu else DEVICE_BLOCK) // max(1, len(refs)))
        for first in range(0, len(rows), height):
            at = slice(first, first + height)
            c = self.closeness.of(rows[at] @ refs.T, squares[at, None], ref_squares[None, :])
            positive = self.labels[at, None] == ref_labels[None, :]
            negative = ~positive
            if self.ref_embeddings is None:
                own = torch.arange(len(c), device=c.device)
                positive[own, own + first] = False
            yield first, c, positive, negative


class Mined(Sequence[Tensor]):
    """What a miner chose. Nothing is computed until an item is read; what was mined is held until then."""

    length: ClassVar[int]

    def __init__(self, compared: Compared) -> None:
        self.compared = compared
        self._listed: tuple[Tensor, ...] | None = None

    @abstractmethod
    def listing(self) -> tuple[Tensor, ...]:
        """The index tensors."""

    def fits(self, embeddings: Tensor, ref_embeddings: Tensor | None, closeness: Closeness) -> bool:
        """Whether these values, detached or not, were mined, and by the same distance."""
        mined = self.compared
        return (
            closeness == mined.closeness
            and _same_values(mined.embeddings, embeddings)
            and _same_values(mined.ref_embeddings, ref_embeddings)
        )

    def check_sizes(self, anchors: int, candidates: int) -> None:
        """Raises InputError unless a batch of this size was mined."""
        mined = self.compared
        if (len(mined.embeddings), mined.candidates) != (anchors, candidates):
            raise InputError(
                f"indices_tuple must be mined on {anchors} anchors and {candidates} candidates, "
                f"got a selection of {len(mined.embeddings)} and {mined.candidates}"
            )

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...
    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        return self._list()[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._list())

    def _list(self) -> tuple[Tensor, ...]:
        if self._listed is None:
            with torch.no_grad():
                self._listed = self.listing()
        return self._listed


class MinedPairs(Mined):
    """Pairs on one side of thresholds: ``anchors, positives, anchors, negatives``.

    They are listed by anchor, then by candidate, or ``by_value``: from the smallest similarity or distance
    up.
    """

    length = 4

    def __init__(self, compared: Compared, selection: Selection, by_value: bool = False) -> None:
        super().__init__(compared)
        self.selection = selection
        self.by_value = by_value

    def listing(self) -> tuple[Tensor, ...]:
        pieces: list[list[Tensor]] = [[], [], [], []]
        for first, c, positive, negative in self.compared.blocks():
            least = c.masked_fill(~positive, torch.inf).amin(dim=1)
            most = c.masked_fill(~negative, -torch.inf).amax(dim=1)
            kept = (
                positive & (c < self.selection.positive_threshold(most)[:, None]),
                negative & (c > self.selection.negative_threshold(least)[:, None]),
            )
            order = None
            if self.by_value:
                order = c.argsort(dim=1, descending=self.compared.closeness.kind != "inner", stable=True)
            for side, mask in enumerate(kept):
                anchor, other = torch.where(mask if order is None else mask.gather(1, order))
                pieces[2 * side].append(anchor + first)
                pieces[2 * side + 1].append(other if order is None else order[anchor, other])
        return joined(pieces, self.compared.embeddings.device)


def joined(pieces: list[list[Tensor]], device: torch.device) -> tuple[Tensor, ...]:
    """Index tensors from their parts."""
    empty = torch.empty(0, dtype=torch.int64, device=device)
    return tuple(torch.cat([empty, *piece]) for piece in pieces)


class Miner(nn.Module):
    """A miner, called like pytorch-metric-learning's.

    Args:
        distance: what pairs are compared by, one of :mod:`fastdml.distances` or of pytorch-metric-learning;
            None is the default of the miner.
    """

    default_distance: ClassVar[Distance] = LpDistance()

    def __init__(self, *, distance: Any = None) -> None:
        super().__init__()
        self.distance = self.default_distance if distance is None else distance
        self.closeness = closeness_of(self.distance)

    @abstractmethod
    def choose(self, compared: Compared) -> Mined:
        """The lazy selection."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Mined:
        """What is chosen of a batch [N, D], labels [N], in itself or against [M, D], labels [M].

        Raises:
            InputError: an argument of the wrong shape, dtype or device.
        """
        labels, ref_labels = check_pairs(embeddings, labels, ref_emb, ref_labels)
        return self.choose(Compared(self.closeness, embeddings, labels, ref_emb, ref_labels))


def _same_values(a: Tensor | None, b: Tensor | None) -> bool:
    if a is b:
        return True
    if a is None or b is None or torch.compiler.is_compiling():
        return False
    return (
        a.data_ptr() == b.data_ptr()
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
    )
