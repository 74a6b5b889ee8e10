"""Backward of the pair engine, blocks: weights of an L2-sized block, then a vendor product with the rows.

For embeddings too wide for the row owner, and for float32. The block of weights stays in the cache between
the two, each pair of blocks is visited once, and memory is constant beyond the gradients.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.closeness import closeness_and_slope, load_squares
from fastdml.triton_kernels.pair_call import PairCall, Side
from fastdml.triton_kernels.tiles import NUMBERS_OF_ROWS, load_slab, product, same_label, stored
from fastdml.triton_kernels.weights import (
    load_negative_numbers,
    load_positive_numbers,
    negative_weights,
    positive_weights,
)

# Row tiles that programs of neighbouring ids share, so that both operands stay in the cache.
ROWS_PER_GROUP = tl.constexpr(8)
PLACES = ["n_rows", "n_columns", "i_row0", "i_column0", "n_block_rows", "n_block_columns"]


@triton.jit(do_not_specialize=PLACES, do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def pair_weights_kernel(
    p_x, p_r, p_x_square, p_r_square, p_start, p_end, p_own, p_row, p_grad, p_weight, p, limits,
    n_rows, n_columns, i_row0, i_column0, n_block_rows, n_block_columns, stride_weight,
    NEGATIVE_WEIGHT: tl.constexpr, POSITIVE_WEIGHTS: tl.constexpr, SELECTS: tl.constexpr,
    SECOND: tl.constexpr, SELF: tl.constexpr, KIND: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # p_weight [n_block_rows, n_block_columns], its rows stride_weight apart: rows from i_row0 on against
    # columns from i_column0 on
    n_tiles_m = tl.cdiv(n_block_rows, BM)
    n_tiles_n = tl.cdiv(n_block_columns, BN)
    i_group = tl.program_id(0) // (ROWS_PER_GROUP * n_tiles_n)
    i_in_group = tl.program_id(0) % (ROWS_PER_GROUP * n_tiles_n)
    n_group = tl.minimum(n_tiles_m - i_group * ROWS_PER_GROUP, ROWS_PER_GROUP)
    i_m = i_group * ROWS_PER_GROUP + i_in_group % n_group
    i_n = i_in_group // n_group

    o_i = i_m * BM + tl.arange(0, BM)
    o_j = i_n * BN + tl.arange(0, BN)
    o_m = tl.minimum(i_row0 + o_i, n_rows - 1)
    o_n = i_column0 + o_j
    o_c = tl.minimum(o_n, n_columns - 1)
    b_s = tl.zeros([BM, BN], tl.float32)
    for i_k in range(0, D, BK):
        b_x = load_slab(p_x, o_m, i_k, D, BK)
        b_r = load_slab(p_r, o_c, i_k, D, BK)
        b_s = product(b_x, tl.trans(b_r), b_s, PRECISION)

    b_q = load_squares(p_x_square, o_m, KIND)
    b_c, b_slope = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_c, KIND), KIND)

    stride = tl.cast(n_rows, tl.int64)
    first = i_row0 + i_m * BM
    last = tl.minimum(first + BM, n_rows) - 1
    left = i_column0 + i_n * BN
    p_out = p_weight + o_i.to(tl.int64)[:, None] * stride_weight + o_j[None, :]
    m_out = (o_i < n_block_rows)[:, None] & (o_j < n_block_columns)[None, :]
    b_negative = load_negative_numbers(p_row, p_grad, o_m, stride, True)
    o_negative = load_negative_numbers(p_row, p_grad, o_c, stride, SELF)
    b_w = negative_weights(b_c, b_negative, o_negative, p, NEGATIVE_WEIGHT, SELECTS, True, SELF) * b_slope
    tl.store(p_out, stored(b_w, p_weight.dtype.element_ty), mask=m_out)
    # written after, not with the negatives: numbers of the columns take many registers
    if (tl.load(p_start + first) < left + BN) & (tl.load(p_end + last) > left):
        tl.debug_barrier()  # whichever threads write these, they do so after those of the negatives
        b_positive = load_positive_numbers(p_row, p_grad, o_m, stride, True)
        o_positive = load_positive_numbers(p_row, p_grad, o_c, stride, SELF)
        b_w = positive_weights(
            b_c, b_positive, o_positive, p, limits, POSITIVE_WEIGHTS, SELECTS, SECOND, True, SELF
        )
        b_w = tl.where(tl.load(p_own + o_m)[:, None] == o_n[None, :], 0.0, b_w) * b_slope
        m = same_label(o_n, tl.load(p_start + o_m), tl.load(p_end + o_m))
        tl.store(p_out, stored(b_w, p_weight.dtype.element_ty), mask=m_out & m)


def pair_block_gradients(
    call: PairCall,
    anchors: Side,
    candidates: Side | None,
    rows: Tensor,
    grads: Tensor,
    need_anchors: bool,
    need_candidates: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients [1, N, D] of the anchors' and [1, M, D] of the candidates' unit rows, float32.

    None where one is not needed. For self-pairs (``candidates`` None) the first takes both terms, the second
    is None. The arguments are those of ``pair_row_gradients``.
    """
    self_pairs = candidates is None
    units = anchors.units
    others = anchors if candidates is None else candidates
    count, width = units.shape
    columns = others.units.shape[0]
    tile = configs.block_tile(configs.arch(units), units.dtype, width, call.precision, call.light, self_pairs)
    side = configs.block_side(units, max(count, columns), tile)
    weights = torch.empty(side, side, dtype=units.dtype, device=units.device)
    grad_anchors = units.new_zeros(count, width, dtype=torch.float32) if need_anchors else None
    grad_candidates = None
    if need_candidates and not self_pairs:
        grad_candidates = units.new_zeros(columns, width, dtype=torch.float32)
    start, end, own = anchors.spans
    for row in range(0, count, side):
        row_end = min(row + side, count)
        for column in range(row if self_pairs else 0, columns, side):
            column_end = min(column + side, columns)
            block = weights[: row_end - row, : column_end - column]
            grid = triton.cdiv(block.shape[0], tile.rows) * triton.cdiv(block.shape[1], tile.columns)
            pair_weights_kernel[(grid,)](
                units, others.units, anchors.squares, others.squares, start, end, own, rows, grads, weights,
                call.p, call.limits, count, columns, row, column, block.shape[0], block.shape[1], side,
                SELF=self_pairs, D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth,
                **call.weights(), **tile.options(),
            )  # fmt: skip
            if grad_anchors is not None:
                add_product(grad_anchors[row:row_end], block, others.units[column:column_end])
            below = grad_anchors if self_pairs and column > row else grad_candidates
            if below is not None:
                add_product(below[column:column_end], block.T, units[row:row_end])
    return (
        None if grad_anchors is None else grad_anchors[None],
        None if grad_candidates is None else grad_candidates[None],
    )


def add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """``out += left @ right`` with float32 sums; ``out`` is float32, the factors share any dtype."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    elif adds_to_float32(out.device, left.dtype):
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
    else:
        out.addmm_(left.float(), right.float())


@functools.cache
def adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of ``dtype`` can be added to a float32 matrix as they are."""
    out = torch.zeros(16, 16, device=device)
    factor = torch.zeros(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(out, factor, factor, out_dtype=torch.float32, out=out)
    except (RuntimeError, NotImplementedError):
        return False
    return True
