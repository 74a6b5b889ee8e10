"""Miners that return their selection lazily: handed to a loss it is fused, unpacked it is listed.

They stand where pytorch-metric-learning's do: ``loss(embeddings, labels, miner(embeddings, labels))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdml.distances import check_distance
from fastdml.errors import InputError
from fastdml.functional import check_pairs

LISTED_ELEMENTS = 1 << 22
"""Similarities held at a time while pairs are listed."""


class MinedPairs(Sequence[Tensor]):
    """The pairs that a Multi-Similarity miner keeps: ``anchors, positives, anchors, negatives``.

    Nothing is computed until an item is read; the tensors that were mined are held until then.
    """

    def __init__(
        self,
        epsilon: float,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
    ) -> None:
        self.epsilon = epsilon
        self.embeddings, self.labels = embeddings, labels
        self.ref_embeddings, self.ref_labels = ref_embeddings, ref_labels
        self._listed: tuple[Tensor, ...] | None = None

    def mined_on(self, embeddings: Tensor, ref_embeddings: Tensor | None) -> bool:
        """Whether these are the values that were mined, detached or not."""
        return _same_values(self.embeddings, embeddings) and _same_values(self.ref_embeddings, ref_embeddings)

    def __len__(self) -> int:
        return 4

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...
    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        return self._list()[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._list())

    @torch.no_grad()
    def _list(self) -> tuple[Tensor, ...]:
        if self._listed is not None:
            return self._listed
        unit = F.normalize(self.embeddings, dim=1)
        self_pairs = self.ref_embeddings is None
        ref_unit = unit if self.ref_embeddings is None else F.normalize(self.ref_embeddings, dim=1)
        ref_labels = self.labels if self.ref_labels is None else self.ref_labels
        rows = max(1, LISTED_ELEMENTS // max(1, len(ref_unit)))
        pieces: list[list[Tensor]] = [[], [], [], []]
        for first in range(0, len(unit), rows):
            similarity = unit[first : first + rows] @ ref_unit.T
            positive = self.labels[first : first + rows, None] == ref_labels[None, :]
            negative = ~positive
            if self_pairs:
                own = torch.arange(len(similarity), device=similarity.device)
                positive[own, own + first] = False
            least = similarity.masked_fill(~positive, math.inf).amin(dim=1, keepdim=True)
            most = similarity.masked_fill(~negative, -math.inf).amax(dim=1, keepdim=True)
            for kept, place in (
                (positive & (similarity - self.epsilon < most), 0),
                (negative & (similarity + self.epsilon > least), 2),
            ):
                anchor, other = torch.where(kept)
                pieces[place].append(anchor + first)
                pieces[place + 1].append(other)
        empty = torch.empty(0, dtype=torch.int64, device=unit.device)
        self._listed = tuple(torch.cat(piece) if piece else empty for piece in pieces)
        return self._listed


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


class MultiSimilarityMiner(nn.Module):
    """Keeps, for every anchor, the pairs that its hardest pair of the other kind makes informative.

    A negative is kept if ``S + epsilon`` exceeds the anchor's least similar positive, a positive if
    ``S - epsilon`` is below its most similar negative; S is the cosine similarity (CVPR 2019, arXiv
    1904.06627, section 3.2).

    Args:
        epsilon: the margin.
        distance: None or pytorch-metric-learning's ``CosineSimilarity()``.

    Example:
        >>> miner, loss = MultiSimilarityMiner(0.1), MultiSimilarityLoss()
        >>> loss(embeddings, labels, miner(embeddings, labels))    # fused: no pair is listed
        >>> a1, p, a2, n = miner(embeddings, labels)               # listed, as pytorch-metric-learning's
    """

    def __init__(self, epsilon: float = 0.1, *, distance: Any = None) -> None:
        super().__init__()
        if not math.isfinite(epsilon):
            raise InputError(f"epsilon must be a finite number, got {epsilon!r}")
        check_distance(distance)
        self.epsilon = epsilon

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> MinedPairs:
        """The mined pairs of a batch [N, D], labels [N], in itself or against [M, D], labels [M].

        Raises:
            InputError: an argument of the wrong shape, dtype or device.
        """
        labels, ref_labels = check_pairs(embeddings, labels, ref_emb, ref_labels)
        return MinedPairs(self.epsilon, embeddings, labels, ref_emb, ref_labels)

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}"
