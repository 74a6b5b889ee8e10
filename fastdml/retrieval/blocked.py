"""Ranks of positives from one block of similarities at a time, on any device.

Plain PyTorch counts what a block holds, or on a GPU one kernel that reads it once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.retrieval import rank_ops
from fastdml.retrieval.layout import SortedSets

QUERY_BLOCK = 512
GALLERY_BLOCK = 2048
# Elsewhere a block is 32 MB in float32, of the 50 MB of L2 of a large GPU: few enough that the host keeps up.
DEVICE_QUERY_BLOCK = 2048
DEVICE_BLOCK = 1 << 23
# Of thresholds for a block of queries: one query may have as many as the gallery has rows.
MOST_THRESHOLDS = 1 << 20
# Beyond this many a query, each similarity is looked up among them instead of compared with each.
COMPARED = 16


def rank_positives(sets: SortedSets) -> Tensor:
    """Ranks int32 [offsets[-1]]: of each query, ascending; then zeros for what of its span is no positive."""
    ranks = torch.zeros(int(sets.offsets[-1]), dtype=torch.int32, device=sets.offsets.device)
    height = QUERY_BLOCK if ranks.is_cpu else DEVICE_QUERY_BLOCK
    lengths = sets.spans[1] - sets.spans[0]
    count = lengths.numel()
    first = 0
    while first < count:
        longest = int(lengths[first : first + height].max())
        last = min(count, first + max(1, min(height, MOST_THRESHOLDS // max(longest, 1))))
        if longest:
            block = _Block(sets.some(first, last))
            block.write_ranks(ranks[int(sets.offsets[first]) : int(sets.offsets[last])])
        first = last
    return ranks


class _Block:
    """Some queries against the whole gallery."""

    def __init__(self, sets: SortedSets) -> None:
        self.sets = sets
        self.gallery = sets.queries if sets.gallery is None else sets.gallery
        self.start, self.end, self.own = sets.spans[:, :, None]  # [B, 1] each
        self.first, self.last = int(sets.spans[0, 0]), int(sets.spans[1, -1])
        queries = sets.queries.shape[0]
        self.width = GALLERY_BLOCK if self.gallery.is_cpu else DEVICE_BLOCK // queries
        elements = queries * min(self.width, self.gallery.shape[0])
        self.memory = self.gallery.new_empty(elements)

    def write_ranks(self, out: Tensor) -> None:
        thresholds, positives = self._thresholds()  # [B, P] ascending, [B, 1]
        counts = self._count(thresholds)
        place = torch.arange(thresholds.shape[1], device=counts.device)
        ranks = counts + positives - place  # the highest threshold is that of the first positive
        rows, places = torch.nonzero(place < positives, as_tuple=True)
        out[self.sets.offsets[rows] + positives[rows, 0] - 1 - places] = ranks[rows, places].int()

    def _thresholds(self) -> tuple[Tensor, Tensor]:
        """Below which similarity a negative stands behind a positive; +infinity after the last of a row."""
        longest = int((self.end - self.start).max())
        found = self.gallery.new_full((len(self.own), longest), torch.inf)
        positives = torch.zeros_like(self.own)
        for begin in range(self.first, self.last, self.width):
            end = min(begin + self.width, self.last)
            similarity, column = self._similarities(begin, end)
            kept = self._same_label(column) & (column != self.own)
            if self.sets.query_cameras is not None and self.sets.gallery_cameras is not None:
                kept &= self.sets.query_cameras[:, None] != self.sets.gallery_cameras[begin:end]
            positives += kept.sum(dim=1, keepdim=True, dtype=torch.int32)
            rows, columns = torch.nonzero(kept, as_tuple=True)
            found[rows, columns + begin - self.start[rows, 0]] = similarity[rows, columns]
        lowest = torch.finfo(found.dtype).min
        threshold = found - self.sets.slack[:, None]
        return torch.where(threshold > lowest, threshold, lowest).sort(dim=1).values, positives  # NaN too

    def _count(self, thresholds: Tensor) -> Tensor:
        """How many negatives reach each threshold, int64 [B, P]."""
        fused = rank_ops.counting_kernel(thresholds.device)
        if fused is not None and thresholds.shape[1] <= fused[1]:
            counts = torch.zeros_like(thresholds, dtype=torch.int32)
            for begin in range(0, self.gallery.shape[0], self.width):
                similarity, _ = self._similarities(begin, min(begin + self.width, self.gallery.shape[0]))
                fused[0](similarity, thresholds, counts, self.sets.spans, begin)
            return counts.long()
        return self._count_in_pytorch(thresholds)

    def _count_in_pytorch(self, thresholds: Tensor) -> Tensor:
        compared = thresholds.shape[1] <= COMPARED
        comparisons = torch.empty_like(self.memory) if compared else self.memory
        counts = self.own.new_zeros(len(thresholds), thresholds.shape[1] + (not compared), dtype=torch.int64)
        for begin in range(0, self.gallery.shape[0], self.width):
            end = min(begin + self.width, self.gallery.shape[0])
            similarity, column = self._similarities(begin, end)
            if begin < self.last and end > self.first:
                similarity.masked_fill_(self._same_label(column), -torch.inf)
            rows = torch.nonzero((self.own >= begin) & (self.own < end))[:, 0]
            similarity[rows, self.own[rows, 0] - begin] = -torch.inf
            if compared:
                self._compare(similarity, thresholds, counts, comparisons[: similarity.numel()])
            else:
                reached = torch.searchsorted(thresholds, similarity, right=True)
                counts.scatter_add_(1, reached, torch.ones_like(reached))
        # Where looked up, counts[:, k] are the negatives that reach k thresholds and no more.
        return counts if compared else counts.flip(1).cumsum(1).flip(1)[:, 1:]

    def _compare(self, similarity: Tensor, thresholds: Tensor, counts: Tensor, below: Tensor) -> None:
        # Ones and zeros in floats sum fastest, and a block has too few columns for them to miscount.
        below = below.view_as(similarity)
        for k, threshold in enumerate(thresholds.split(1, dim=1)):
            missed = torch.lt(similarity, threshold, out=below).sum(dim=1)
            counts[:, k] += similarity.shape[1] - missed.to(counts.dtype)

    def _similarities(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """[B, end - begin], valid until the next call; and the rows of the gallery, int32 [end - begin]."""
        queries = self.sets.queries
        block = self.memory[: queries.shape[0] * (end - begin)].view(queries.shape[0], end - begin)
        torch.mm(queries, self.gallery[begin:end].T, out=block)
        return block, torch.arange(begin, end, dtype=torch.int32, device=block.device)

    def _same_label(self, column: Tensor) -> Tensor:
        return (column >= self.start) & (column < self.end)
