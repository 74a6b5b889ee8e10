"""Backward of the pair engine, the row owner: one program sums the gradient of one block of rows.

It recomputes the block's similarities tile by tile and multiplies their weights with the candidates: no
atomics, no memory beyond the gradient. It carries [BM, D] in registers, so it is for D up to 256; wider ones
take pair_block.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.closeness import closeness_and_slope, load_squares
from fastdml.triton_kernels.pair_call import PairCall, Side
from fastdml.triton_kernels.tiles import (
    NUMBERS_OF_ROWS,
    load_slab,
    load_tile,
    masked_tile,
    plain_count,
    plain_tile,
    positive_tiles,
    product,
    share,
    stored,
)
from fastdml.triton_kernels.weights import (
    load_negative_numbers,
    load_positive_numbers,
    masked_weights,
    negative_weights,
    positive_weights,
)


@triton.jit(do_not_specialize=["n_rows", "n_columns"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def pair_row_gradients_kernel(
    p_x, p_r, p_x_square, p_r_square, p_start, p_end, p_own, p_row, p_grad, p_out, p, limits,
    n_rows, n_columns,
    NEGATIVE_WEIGHT: tl.constexpr, POSITIVE_WEIGHTS: tl.constexpr, SELECTS: tl.constexpr,
    SECOND: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, KIND: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # p_out [splits, n_rows, D]; p_own [anchors], p_row [4, anchors] and p_grad [3, anchors] belong to the
    # rows where OWN, to the columns where OTHER
    i_row = tl.program_id(0) * BM
    o_m = i_row + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    stride = tl.cast(n_columns, tl.int64) if OTHER else tl.cast(n_rows, tl.int64)
    b_negative = load_negative_numbers(p_row, p_grad, o_m, stride, OWN)
    b_positive = load_positive_numbers(p_row, p_grad, o_m, stride, OWN)
    b_q = load_squares(p_x_square, o_m, KIND)
    lo, hi = positive_tiles(p_start, p_end, i_row, n_rows, BM, BN)
    n_plain = plain_count(lo, hi, n_columns, BN)
    begin, end = share(tl.cdiv(n_columns, BN))
    b_x = load_slab(p_x, o_m, 0, D, BD)
    b_grad = tl.zeros([BM, BD], tl.float32)

    for i in range(begin, tl.minimum(end, n_plain)):
        i_n = plain_tile(i, lo, hi)
        o_n = i_n * BN + tl.arange(0, BN)
        b_r = load_tile(p_r + i_n.to(tl.int64) * (BN * D), 0, D, BN, BD)
        o_negative = load_negative_numbers(p_row, p_grad, o_n, stride, OTHER)
        b_s = product(b_x, tl.trans(b_r), None, PRECISION)
        b_c, b_slope = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_n, KIND), KIND)
        b_w = negative_weights(b_c, b_negative, o_negative, p, NEGATIVE_WEIGHT, SELECTS, OWN, OTHER)
        b_grad = product(stored(b_w * b_slope, b_r.dtype), b_r, b_grad, PRECISION)

    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    # in halves: numbers of the columns take many registers, and these tiles are few
    HALF: tl.constexpr = BN // 2
    for i in range(2 * tl.maximum(begin, n_plain), 2 * end):
        i_n = masked_tile(i // 2 - n_plain, lo, hi, n_columns, BN)
        o_n = i_n * BN + (i % 2) * HALF + tl.arange(0, HALF)
        o_c = tl.minimum(o_n, n_columns - 1)
        b_r = load_slab(p_r, o_c, 0, D, BD)
        o_negative = load_negative_numbers(p_row, p_grad, o_c, stride, OTHER)
        o_positive = load_positive_numbers(p_row, p_grad, o_c, stride, OTHER)
        b_s = product(b_x, tl.trans(b_r), None, PRECISION)
        b_c, b_slope = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_c, KIND), KIND)
        b_neg = negative_weights(b_c, b_negative, o_negative, p, NEGATIVE_WEIGHT, SELECTS, OWN, OTHER)
        b_pos = positive_weights(
            b_c, b_positive, o_positive, p, limits, POSITIVE_WEIGHTS, SELECTS, SECOND, OWN, OTHER
        )
        if OWN:
            m_own = tl.load(p_own + o_m)[:, None] == o_n[None, :]
        else:
            m_own = tl.load(p_own + o_c)[None, :] == o_m[:, None]
        b_w = masked_weights(b_neg, b_pos, o_n, b_start, b_end, m_own, n_columns)
        b_grad = product(stored(b_w * b_slope, b_r.dtype), b_r, b_grad, PRECISION)

    o_d = tl.arange(0, BD)
    p_out += (tl.program_id(1).to(tl.int64) * n_rows + o_m)[:, None] * D + o_d[None, :]
    tl.store(p_out, b_grad, mask=m_m[:, None] & (o_d < D)[None, :])


def pair_row_gradients(
    call: PairCall,
    anchors: Side,
    candidates: Side | None,
    rows: Tensor,
    grads: Tensor,
    of_anchors: bool,
    tile: configs.Tile,
) -> Tensor:
    """Gradients [parts, n, D], float32, of unit rows of one side; their sum over the parts is meant.

    Args:
        anchors: N rows.
        candidates: M rows; None: the anchors themselves, whose gradients then take both terms.
        rows: [4, N], what the forward left of every anchor.
        grads: [3, N], float32: gradients of the three sums of every anchor, sorted.
        of_anchors: whether the gradients of the anchors are wanted, or those of the candidates.
        tile: from ``configs.row_owner_tile``.
    """
    others = anchors if candidates is None else candidates
    owners, columns = (anchors, others) if of_anchors else (others, anchors)
    count, width = owners.units.shape
    n_columns = columns.units.shape[0]
    row_blocks = configs.cdiv(count, tile.rows)
    splits = configs.column_splits(owners.units, row_blocks, configs.cdiv(n_columns, tile.columns))
    found = torch.empty(splits, count, width, dtype=torch.float32, device=owners.units.device)
    pair_row_gradients_kernel[(row_blocks, splits)](
        owners.units, columns.units, owners.squares, columns.squares, owners.spans[0], owners.spans[1],
        anchors.spans[2], rows, grads, found, call.p, call.limits, count, n_columns,
        OWN=of_anchors, OTHER=not of_anchors or candidates is None, D=width, BM=tile.rows, BN=tile.columns,
        BD=tile.depth, **call.weights(), **tile.options(),
    )  # fmt: skip
    return found
