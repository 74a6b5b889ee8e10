"""The threshold statistics in plain PyTorch, a block of anchors at a time: any device, linear memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fastdml.engines.sides import Sides
from fastdml.engines.threshold_ops import library
from fastdml.rules import Closeness

CPU_BLOCK, DEVICE_BLOCK = 1 << 19, 1 << 22
"""Pairs of a block, on the CPU and on any other device."""

# Up to so many thresholds of an anchor are compared one by one, from there on its negatives are sorted.
FEW_THRESHOLDS = 32


class _Block(NamedTuple):
    """Anchors ``at``, and a table [B, K] of which numbers of theirs, from ``mine``, stand where."""

    at: slice
    mine: slice
    row: Tensor
    column: Tensor
    widest: int

    def table(self, values: Tensor, fill: float) -> Tensor:
        """The anchors' numbers as [B, K], filled where an anchor has fewer."""
        found = values.new_full((self.at.stop - self.at.start, self.widest), fill)
        found[self.row, self.column] = values[self.mine]
        return found


def _blocks(sides: Sides, offsets: Tensor) -> Iterator[_Block]:
    """The blocks that have thresholds at all; where they start has to be known on the host."""
    starts = offsets.tolist()
    lengths = [after - before for before, after in pairwise(starts)]
    device = sides.rows.device
    pairs = CPU_BLOCK if sides.rows.is_cpu else DEVICE_BLOCK
    height = max(16, pairs // max(1, len(sides.others[0])))
    for start in range(0, len(lengths), height):
        end = min(start + height, len(lengths))
        mine = slice(starts[start], starts[end])
        count = mine.stop - mine.start
        if count == 0:
            continue
        place = torch.arange(count, device=device)
        inner = offsets[start : end + 1] - offsets[start]
        row = torch.searchsorted(inner, place, right=True) - 1
        yield _Block(slice(start, end), mine, row, place - inner[row], max(lengths[start:end]))


def _negatives(sides: Sides, at: slice) -> Tensor:
    """Closeness [B, M] of the negatives, -inf for all else."""
    return sides.closeness_of(at).masked_fill(~sides.negatives_of(at), -math.inf)


def _forward(
    rows: Tensor,
    squares: Tensor,
    labels: Tensor,
    refs: Tensor | None,
    ref_squares: Tensor | None,
    ref_labels: Tensor | None,
    own: Tensor | None,
    thresholds: Tensor,
    offsets: Tensor,
    closeness: int,
) -> tuple[Tensor, Tensor]:
    sides = Sides(Closeness.of_code(closeness), rows, squares, labels, refs, ref_squares, ref_labels, own)
    counts = torch.zeros_like(thresholds, dtype=torch.float64)
    sums = torch.zeros_like(counts)
    with torch.autocast(rows.device.type, enabled=False):
        for block in _blocks(sides, offsets):
            gather = _one_by_one if block.widest <= FEW_THRESHOLDS else _by_sorting
            table = block.table(thresholds, math.inf)
            found = gather(_negatives(sides, block.at), table)
            counts[block.mine], sums[block.mine] = (values[block.row, block.column] for values in found)
    return counts, sums


def _one_by_one(c: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and sums [B, K] of what lies beyond thresholds [B, K]."""
    counts, sums = [], []
    for threshold in thresholds.unbind(dim=1):
        beyond = (c - threshold[:, None]).clamp_min_(0)
        counts.append((beyond > 0).sum(dim=1))
        sums.append(beyond.sum(dim=1, dtype=torch.float64))
    return torch.stack(counts, dim=1).double(), torch.stack(sums, dim=1)


def _by_sorting(c: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The same in time that hardly grows with the number of thresholds."""
    falling = -c.neg().sort(dim=1).values
    counts = torch.searchsorted(-falling, -thresholds)
    before = falling.masked_fill(falling == -math.inf, 0).cumsum(dim=1, dtype=torch.float64)
    before = torch.cat([before.new_zeros(len(before), 1), before], dim=1)
    taken = torch.where(counts > 0, thresholds, 0).double() * counts
    return counts.double(), before.gather(1, counts) - taken


def _backward(
    grad_sums: Tensor,
    rows: Tensor,
    squares: Tensor,
    labels: Tensor,
    refs: Tensor | None,
    ref_squares: Tensor | None,
    ref_labels: Tensor | None,
    own: Tensor | None,
    thresholds: Tensor,
    offsets: Tensor,
    closeness: int,
    need_rows: bool,
    need_refs: bool,
) -> tuple[Tensor, Tensor]:
    compared_by = Closeness.of_code(closeness)
    sides = Sides(compared_by, rows, squares, labels, refs, ref_squares, ref_labels, own)
    others = sides.others[0]
    nothing = rows.new_empty(0, rows.shape[1])
    grad_rows = torch.zeros_like(rows)
    grad_others = grad_rows if refs is None else torch.zeros_like(refs)
    with torch.autocast(rows.device.type, enabled=False):
        for block in _blocks(sides, offsets):
            c = _negatives(sides, block.at)
            table, at = block.table(thresholds, math.inf).sort(dim=1)
            grads = block.table(grad_sums.double(), 0.0).gather(1, at).cumsum(dim=1)
            # what lies beyond k thresholds bears the gradients of the k least
            shares = torch.cat([grads.new_zeros(len(grads), 1), grads], dim=1).to(c.dtype)
            weights = shares.gather(1, torch.searchsorted(table, c)) * compared_by.slope(c)
            compared_by.add_gradients(
                weights, rows[block.at], others,
                grad_rows[block.at] if need_rows else None,
                grad_others if need_refs or refs is None else None,
            )  # fmt: skip
    return (
        grad_rows if need_rows else nothing,
        grad_others if need_refs and refs is not None else nothing.clone(),
    )


library.impl("threshold_forward_blocked", _forward, "CompositeExplicitAutograd")
library.impl("threshold_backward_blocked", _backward, "CompositeExplicitAutograd")
