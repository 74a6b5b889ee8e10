"""Backward of the pair engine, blocks: weights of an L2-sized block, then a vendor product with the rows.

For embeddings too wide for the row owner, and for float32. The block of weights stays in the cache between
the two, each pair of blocks is visited once, and memory is constant beyond the gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.pair_backward import load_negative_numbers, load_numbers
from fastdml.triton_kernels.rules import PairRuleKernels
from fastdml.triton_kernels.tiles import load_slab, product, stored
from fastdml.triton_kernels.weights import masked_weights, negative_weights, positive_weights

# Row tiles that programs of neighbouring ids share, so that both operands stay in the cache.
ROWS_PER_GROUP = tl.constexpr(8)
PLACES = ["n_rows", "n_columns", "i_row0", "i_column0", "n_block_rows", "n_block_columns"]


@triton.jit(do_not_specialize=PLACES)
def pair_weights_kernel(
    p_x, p_r, p_start, p_end, p_row, p_scale, p_weight, p, n_rows, n_columns,
    i_row0, i_column0, n_block_rows, n_block_columns,
    IS_POSITIVE: tl.constexpr, POSITIVE_KEPT: tl.constexpr, NEGATIVE_WEIGHT: tl.constexpr,
    POSITIVE_WEIGHT: tl.constexpr, MINES: tl.constexpr, SELF: tl.constexpr, LD: tl.constexpr,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # p_weight [n_block_rows, n_block_columns], rows LD apart: rows from i_row0 against columns from i_column0
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

    stride = tl.cast(n_rows, tl.int64)
    first = i_row0 + i_m * BM
    last = tl.minimum(first + BM, n_rows) - 1
    left = i_column0 + i_n * BN
    p_out = p_weight + o_i.to(tl.int64)[:, None] * LD + o_j[None, :]
    m_out = (o_i < n_block_rows)[:, None] & (o_j < n_block_columns)[None, :]
    # each branch loads what it reads: numbers of the columns take many registers
    if (tl.load(p_start + first) < left + BN) & (tl.load(p_end + last) > left):
        b_t0, b_t1, b_c0, b_c1 = load_numbers(p_row, p_scale, o_m, stride, True)
        o_t0, o_t1, o_c0, o_c1 = load_numbers(p_row, p_scale, o_c, stride, SELF)
        b_start = tl.load(p_start + o_m)
        b_end = tl.load(p_end + o_m)
        b_neg = negative_weights(b_s, b_t0, b_c0, o_t0, o_c0, p, NEGATIVE_WEIGHT, True, SELF, MINES)
        b_pos = positive_weights(
            b_s, b_t1, b_c1, o_t1, o_c1, p, IS_POSITIVE, POSITIVE_KEPT, POSITIVE_WEIGHT, True, SELF
        )
        b_w = masked_weights(b_neg, b_pos, o_m, o_n, b_start, b_end, n_columns, SELF)
        tl.store(p_out, stored(b_w, p_weight.dtype.element_ty), mask=m_out)
    else:
        b_t0, b_c0 = load_negative_numbers(p_row, p_scale, o_m, True)
        o_t0, o_c0 = load_negative_numbers(p_row, p_scale, o_c, SELF)
        b_w = negative_weights(b_s, b_t0, b_c0, o_t0, o_c0, p, NEGATIVE_WEIGHT, True, SELF, MINES)
        tl.store(p_out, stored(b_w, p_weight.dtype.element_ty), mask=m_out)


def pair_block_gradients(
    rule: PairRuleKernels,
    constants: Sequence[float],
    anchors: Tensor,
    candidates: Tensor | None,
    spans: Tensor,
    rows: Tensor,
    scales: Tensor,
    need_anchors: bool,
    need_candidates: bool,
    precision: str,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients [1, N, D] of the anchors' and [1, M, D] of the candidates' unit rows, float32.

    None where one is not needed. For self-pairs (``candidates`` None) the first takes both terms, the second
    is None. The arguments are those of ``pair_row_gradients``, with the spans of the anchors.
    """
    self_pairs = candidates is None
    others = anchors if candidates is None else candidates
    count, width = anchors.shape
    columns = others.shape[0]
    tile = configs.block_tile(configs.arch(anchors), anchors.dtype, width, precision)
    side = configs.block_side(anchors, max(count, columns), tile)
    weights = torch.empty(side, side, dtype=anchors.dtype, device=anchors.device)
    grad_anchors = anchors.new_zeros(count, width, dtype=torch.float32) if need_anchors else None
    grad_candidates = None
    if need_candidates and not self_pairs:
        grad_candidates = anchors.new_zeros(columns, width, dtype=torch.float32)
    p = tuple(constants)
    for row in range(0, count, side):
        row_end = min(row + side, count)
        for column in range(row if self_pairs else 0, columns, side):
            column_end = min(column + side, columns)
            block = weights[: row_end - row, : column_end - column]
            grid = triton.cdiv(block.shape[0], tile.rows) * triton.cdiv(block.shape[1], tile.columns)
            pair_weights_kernel[(grid,)](
                anchors, others, spans[0], spans[1], rows, scales, weights, p, count, columns,
                row, column, block.shape[0], block.shape[1],
                IS_POSITIVE=rule.is_positive, POSITIVE_KEPT=rule.positive_kept,
                NEGATIVE_WEIGHT=rule.negative_weight, POSITIVE_WEIGHT=rule.positive_weight,
                MINES=rule.mines(constants), SELF=self_pairs, LD=side, D=width,
                BM=tile.rows, BN=tile.columns, BK=tile.depth, PRECISION=precision,
                **tile.options(),
            )  # fmt: skip
            if grad_anchors is not None:
                add_product(grad_anchors[row:row_end], block, others[column:column_end])
            below = grad_anchors if self_pairs and column > row else grad_candidates
            if below is not None:
                add_product(below[column:column_end], block.T, anchors[row:row_end])
    return (
        None if grad_anchors is None else grad_anchors[None],
        None if grad_candidates is None else grad_candidates[None],
    )


def add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """``out += left @ right`` with float32 sums; ``out`` is float32, the factors share any dtype."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    elif _adds_to_float32(out.device, left.dtype):
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
    else:
        out.addmm_(left.float(), right.float())


@functools.cache
def _adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of ``dtype`` can be added to a float32 matrix as they are."""
    out = torch.zeros(16, 16, device=device)
    factor = torch.zeros(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(out, factor, factor, out_dtype=torch.float32, out=out)
    except (RuntimeError, NotImplementedError):
        return False
    return True
