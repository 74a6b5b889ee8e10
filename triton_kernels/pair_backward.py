"""Backward of the pair engine, the row owner: one program sums the gradient of one block of rows.

It recomputes the block's similarities tile by tile and multiplies their weights with the candidates: no
atomics, no memory beyond the gradient. It carries [BM, D] in registers, so it is for D up to 256; wider ones
take pair_block.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.rules import PairRuleKernels
from fastdml.triton_kernels.tiles import (
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
from fastdml.triton_kernels.weights import masked_weights, negative_weights, positive_weights


@triton.jit
def load_numbers(p_row, p_scale, o, stride, GIVES: tl.constexpr):
    # thresholds and scales of the negatives and of the positives; unused where this side is no anchor
    if GIVES:
        t0 = tl.load(p_row + o)
        t1 = tl.load(p_row + stride + o)
        c0 = tl.load(p_scale + o)
        c1 = tl.load(p_scale + stride + o)
    else:
        t0, t1, c0, c1 = 0.0, 0.0, 0.0, 0.0
    return t0, t1, c0, c1


@triton.jit
def load_negative_numbers(p_row, p_scale, o, GIVES: tl.constexpr):
    if GIVES:
        t0 = tl.load(p_row + o)
        c0 = tl.load(p_scale + o)
    else:
        t0, c0 = 0.0, 0.0
    return t0, c0


@triton.jit(do_not_specialize=["n_rows", "n_columns"])
def pair_row_gradients_kernel(
    p_x, p_r, p_start, p_end, p_row, p_scale, p_grad, p, n_rows, n_columns,
    IS_POSITIVE: tl.constexpr, POSITIVE_KEPT: tl.constexpr, NEGATIVE_WEIGHT: tl.constexpr,
    POSITIVE_WEIGHT: tl.constexpr, MINES: tl.constexpr, SELF: tl.constexpr, OWN: tl.constexpr,
    OTHER: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # p_grad [splits, n_rows, D]; p_row [4, anchors] and p_scale [2, anchors] belong to the rows where OWN, to
    # the columns where OTHER
    i_row = tl.program_id(0) * BM
    o_m = i_row + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    stride = tl.cast(n_columns, tl.int64) if OTHER else tl.cast(n_rows, tl.int64)
    b_t0, b_t1, b_c0, b_c1 = load_numbers(p_row, p_scale, o_m, stride, OWN)
    lo, hi = positive_tiles(p_start, p_end, i_row, n_rows, BM, BN)
    n_plain = plain_count(lo, hi, n_columns, BN)
    begin, end = share(tl.cdiv(n_columns, BN))
    b_x = load_slab(p_x, o_m, 0, D, BD)
    b_grad = tl.zeros([BM, BD], tl.float32)

    for i in range(begin, tl.minimum(end, n_plain)):
        i_n = plain_tile(i, lo, hi)
        b_r = load_tile(p_r + i_n.to(tl.int64) * (BN * D), 0, D, BN, BD)
        o_t0, o_c0 = load_negative_numbers(p_row, p_scale, i_n * BN + tl.arange(0, BN), OTHER)
        b_s = product(b_x, tl.trans(b_r), None, PRECISION)
        b_w = negative_weights(b_s, b_t0, b_c0, o_t0, o_c0, p, NEGATIVE_WEIGHT, OWN, OTHER, MINES)
        b_grad = product(stored(b_w, b_r.dtype), b_r, b_grad, PRECISION)

    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    for i in range(tl.maximum(begin, n_plain), end):
        o_n = masked_tile(i - n_plain, lo, hi, n_columns, BN) * BN + tl.arange(0, BN)
        o_c = tl.minimum(o_n, n_columns - 1)
        b_r = load_slab(p_r, o_c, 0, D, BD)
        o_t0, o_t1, o_c0, o_c1 = load_numbers(p_row, p_scale, o_c, stride, OTHER)
        b_s = product(b_x, tl.trans(b_r), None, PRECISION)
        b_neg = negative_weights(b_s, b_t0, b_c0, o_t0, o_c0, p, NEGATIVE_WEIGHT, OWN, OTHER, MINES)
        b_pos = positive_weights(
            b_s, b_t1, b_c1, o_t1, o_c1, p, IS_POSITIVE, POSITIVE_KEPT, POSITIVE_WEIGHT, OWN, OTHER
        )
        b_w = masked_weights(b_neg, b_pos, o_m, o_n, b_start, b_end, n_columns, SELF)
        b_grad = product(stored(b_w, b_r.dtype), b_r, b_grad, PRECISION)

    o_d = tl.arange(0, BD)
    p_out = p_grad + (tl.program_id(1).to(tl.int64) * n_rows + o_m)[:, None] * D + o_d[None, :]
    tl.store(p_out, b_grad, mask=m_m[:, None] & (o_d < D)[None, :])


def pair_row_gradients(
    rule: PairRuleKernels,
    constants: Sequence[float],
    owners: Tensor,
    others: Tensor | None,
    spans: Tensor,
    rows: Tensor,
    scales: Tensor,
    own: bool,
    tile: configs.Tile,
    precision: str,
) -> Tensor:
    """Gradients [parts, n, D], float32, of the unit rows of ``owners``; their sum over the parts is meant.

    Args:
        owners: [n, D] unit rows, sorted by label.
        others: [m, D] likewise; None where they are the owners themselves.
        spans: [2, n], int32: where the rows of each owner's label start and end among the others.
        rows: [4, anchors], what the forward left of every anchor.
        scales: [2, anchors], scales of negatives and of positives times the upstream gradient.
        own: whether the owners are the anchors; with ``others`` None both sides are.
        tile: from ``configs.row_owner_tile``.
        precision: what ``tl.dot`` does with float32.
    """
    count, width = owners.shape
    columns = owners if others is None else others
    row_blocks = triton.cdiv(count, tile.rows)
    splits = configs.column_splits(owners, row_blocks, triton.cdiv(columns.shape[0], tile.columns))
    grads = torch.empty(splits, count, width, dtype=torch.float32, device=owners.device)
    pair_row_gradients_kernel[(row_blocks, splits)](
        owners, columns, spans[0], spans[1], rows, scales, grads, tuple(constants), count, columns.shape[0],
        IS_POSITIVE=rule.is_positive, POSITIVE_KEPT=rule.positive_kept, NEGATIVE_WEIGHT=rule.negative_weight,
        POSITIVE_WEIGHT=rule.positive_weight, MINES=rule.mines(constants), SELF=others is None,
        OWN=own or others is None, OTHER=not own or others is None, D=width, BM=tile.rows, BN=tile.columns,
        BD=tile.depth, PRECISION=precision, **tile.options(),
    )  # fmt: skip
    return grads
