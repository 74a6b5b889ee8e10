"""The threshold statistics on Triton, as fastdml/engines/threshold_ops.py describes them.

A vendor product makes the inner products of a block of anchors; one kernel reads them while they are in the
L2 and counts, or turns them into weights in place. Nothing waits for the device, and nothing is atomic.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.rules.closeness import Closeness
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.closeness import closeness_and_slope, load_squares
from fastdml.triton_kernels.tiles import share

# Pairs of a block: 32 MB of inner products, which fit the L2 of a large device.
BLOCK_ELEMENTS = 1 << 23
# Thresholds at a time, of which each holds a count and a sum for every column of a tile.
GROUP = 8
COLUMNS = 128
WARPS = 4
# Few anchors share their columns among programs, each of which has that many tiles at least.
PROGRAMS_A_PROCESSOR, LEAST_TILES = 8, 8


@triton.jit
def load_pairs(
    p_s, p_square, p_ref_square, p_label, p_ref_label, p_own, i_row, first, o_n, n_columns, KIND: tl.constexpr
):
    # [1, BN] each: closeness of one anchor to the columns, its slope, and which are negatives
    m_n = o_n < n_columns
    o_i = tl.zeros([1], tl.int64) + (first + i_row)
    b_s = tl.load(p_s + i_row.to(tl.int64) * n_columns + o_n, mask=m_n, other=0.0)[None, :]
    b_q = load_squares(p_square, o_i, KIND)
    o_q = load_squares(p_ref_square, tl.minimum(o_n, n_columns - 1), KIND)
    b_c, b_slope = closeness_and_slope(b_s, b_q, o_q, KIND)
    b_label = tl.load(p_label + o_i)
    m = (m_n & (tl.load(p_ref_label + o_n, mask=m_n, other=0) != b_label))[None, :]
    if p_own is not None:
        m = m & (tl.load(p_own + o_i)[:, None] != o_n[None, :])
    return b_c, b_slope, m


@triton.jit(do_not_specialize=["first", "n_columns", "n_thresholds"])
def threshold_sums_kernel(
    p_s, p_square, p_ref_square, p_label, p_ref_label, p_own, p_threshold, p_offset, p_count, p_sum,
    first, n_columns, n_thresholds, KIND: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # one anchor: fills its part of p_count and p_sum [splits, n_thresholds] over this program's columns
    i_row = tl.program_id(0)
    left, right = share(tl.cdiv(n_columns, BN))
    p_count += tl.program_id(1).to(tl.int64) * n_thresholds
    p_sum += tl.program_id(1).to(tl.int64) * n_thresholds
    begin = tl.load(p_offset + first + i_row)
    end = tl.load(p_offset + first + i_row + 1)
    for i_k in range(begin, end, BK):
        o_k = i_k + tl.arange(0, BK)
        b_t = tl.load(p_threshold + o_k, mask=o_k < end, other=float("inf"))[:, None]
        b_count = tl.zeros([BK, BN], tl.int32)
        b_sum = tl.zeros([BK, BN], tl.float32)
        for i_n in range(left, right):
            o_n = i_n * BN + tl.arange(0, BN)
            b_c, _, m = load_pairs(
                p_s, p_square, p_ref_square, p_label, p_ref_label, p_own, i_row, first, o_n, n_columns, KIND
            )
            m = m & (b_c > b_t)
            b_count += m.to(tl.int32)
            b_sum += tl.where(m, b_c - b_t, 0.0)
        tl.store(p_count + o_k, tl.sum(b_count, 1).to(tl.float64), mask=o_k < end)
        tl.store(p_sum + o_k, tl.sum(b_sum, 1).to(tl.float64), mask=o_k < end)


@triton.jit(do_not_specialize=["first", "n_columns"])
def threshold_weights_kernel(
    p_s, p_square, p_ref_square, p_label, p_ref_label, p_own, p_threshold, p_offset, p_grad,
    first, n_columns, KIND: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # one anchor and BN columns: inner products become weights, in place
    i_row = tl.program_id(0)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    b_c, b_slope, m = load_pairs(
        p_s, p_square, p_ref_square, p_label, p_ref_label, p_own, i_row, first, o_n, n_columns, KIND
    )
    b_w = tl.zeros([1, BN], tl.float32)
    begin = tl.load(p_offset + first + i_row)
    end = tl.load(p_offset + first + i_row + 1)
    for i_k in range(begin, end):
        b_w += tl.where(b_c > tl.load(p_threshold + i_k), tl.load(p_grad + i_k), 0.0)
    b_w = tl.where(m, b_w * b_slope, 0.0)
    o_s = i_row.to(tl.int64) * n_columns + o_n[None, :]
    tl.store(p_s + o_s, b_w, mask=(o_n < n_columns)[None, :])


def threshold_forward(
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
    """Counts and sums [T], float64."""
    others, about = _compared(rows, squares, labels, refs, ref_squares, ref_labels, own)
    splits = _splits(rows, others, len(thresholds))
    counts = torch.zeros(splits, len(thresholds), dtype=torch.float64, device=rows.device)
    sums = torch.zeros_like(counts)
    for first, products in _blocks(rows, others):
        threshold_sums_kernel[(len(products), splits)](
            products, *about, thresholds, offsets, counts, sums, first, len(others), len(thresholds),
            KIND=closeness % 4, BK=GROUP, BN=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return (counts[0], sums[0]) if splits == 1 else (counts.sum(dim=0), sums.sum(dim=0))


def threshold_backward(
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
    """Gradients of the rows and of the candidates; [0, D] where not needed."""
    compared_by = Closeness.of_code(closeness)
    others, about = _compared(rows, squares, labels, refs, ref_squares, ref_labels, own)
    grads = grad_sums.to(rows.dtype)
    grad_rows = torch.zeros_like(rows)
    grad_others = grad_rows if refs is None else torch.zeros_like(refs)
    for first, weights in _blocks(rows, others):
        threshold_weights_kernel[(len(weights), configs.cdiv(len(others), COLUMNS))](
            weights, *about, thresholds, offsets, grads, first, len(others),
            KIND=closeness % 4, BN=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
        at = slice(first, first + len(weights))
        compared_by.add_gradients(
            weights, rows[at], others,
            grad_rows[at] if need_rows else None,
            grad_others if need_refs or refs is None else None,
        )  # fmt: skip
    nothing = rows.new_empty(0, rows.shape[1])
    return (
        grad_rows if need_rows else nothing,
        grad_others if need_refs and refs is not None else nothing.clone(),
    )


def _compared(
    rows: Tensor,
    squares: Tensor,
    labels: Tensor,
    refs: Tensor | None,
    ref_squares: Tensor | None,
    ref_labels: Tensor | None,
    own: Tensor | None,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The candidates, and what the kernels read of both sides."""
    if rows.dtype != torch.float32:
        raise TypeError(f"rows must be float32 on triton, got {rows.dtype}")
    if refs is None or ref_squares is None or ref_labels is None:
        refs, ref_squares, ref_labels = rows, squares, labels
    return refs, tuple(
        None if x is None else x.contiguous() for x in (squares, ref_squares, labels, ref_labels, own)
    )


def _splits(rows: Tensor, others: Tensor, thresholds: int) -> int:
    """Programs that share the columns of an anchor: the more candidates, the fewer anchors are in a block.

    Each has sums of its own for every threshold, which together take no more than twice what a block does.
    """
    wanted = PROGRAMS_A_PROCESSOR * configs.processors(rows) // max(1, _height(rows, others))
    tiles = configs.cdiv(len(others), LEAST_TILES * COLUMNS)
    return max(1, min(wanted, tiles, BLOCK_ELEMENTS // 2 // max(1, thresholds)))


def _height(rows: Tensor, others: Tensor) -> int:
    """Anchors of a block."""
    return min(len(rows), max(16, BLOCK_ELEMENTS // max(1, len(others))))


def _blocks(rows: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First anchor and inner products [B, M] of every block; the same memory each time."""
    height = _height(rows, others)
    if height == 0 or len(others) == 0:
        return
    block = rows.new_empty(height, len(others))
    for first in range(0, len(rows), height):
        anchors = rows[first : first + height]
        yield first, torch.mm(anchors, others.T, out=block[: len(anchors)])
