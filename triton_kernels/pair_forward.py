"""Forward of the pair engine: negative statistics of every anchor, then its positives and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.rules import PairRuleKernels
from fastdml.triton_kernels.tiles import (
    load_resident,
    masked_tile,
    negative_mask,
    plain_count,
    plain_similarities,
    plain_tile,
    positive_mask,
    positive_tiles,
    share,
    similarities,
)


@triton.jit
def add_negatives(b_s, b_threshold, b_most, b_sum, p, NEGATIVE_TERM: tl.constexpr, MINES: tl.constexpr):
    b_term = NEGATIVE_TERM(b_s, p)
    if MINES:
        b_most = tl.maximum(b_most, tl.max(b_s, 1))
        b_term = tl.where(b_s > b_threshold[:, None], b_term, 0.0)
    return b_most, b_sum + tl.sum(b_term, 1)


@triton.jit(do_not_specialize=["n_rows", "n_columns"])
def pair_negatives_kernel(
    p_x, p_r, p_start, p_end, p_threshold, p_most, p_sum, p, n_rows, n_columns,
    NEGATIVE_THRESHOLD: tl.constexpr, IS_POSITIVE: tl.constexpr, NEGATIVE_TERM: tl.constexpr,
    MINES: tl.constexpr, SELF: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # p_threshold [n_rows]; p_most, p_sum [splits, n_rows]: over this program's share of the columns
    i_row = tl.program_id(0) * BM
    o_m = i_row + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    lo, hi = positive_tiles(p_start, p_end, i_row, n_rows, BM, BN)
    b_x = load_resident(p_x, o_m, D, BK)

    b_least = tl.full([BM], float("inf"), tl.float32)
    if MINES:
        for i_n in range(lo, hi):
            o_n = i_n * BN + tl.arange(0, BN)
            o_c = tl.minimum(o_n, n_columns - 1)
            b_s = similarities(b_x, p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
            m = positive_mask(o_m, o_n, b_start, b_end, SELF) & IS_POSITIVE(b_s, p)
            b_least = tl.minimum(b_least, tl.min(tl.where(m, b_s, float("inf")), 1))
    b_threshold = NEGATIVE_THRESHOLD(b_least, p)

    b_most = tl.full([BM], -float("inf"), tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    n_plain = plain_count(lo, hi, n_columns, BN)
    begin, end = share(tl.cdiv(n_columns, BN))
    for i in range(begin, tl.minimum(end, n_plain)):
        p_tile = p_r + plain_tile(i, lo, hi).to(tl.int64) * (BN * D)
        b_s = plain_similarities(b_x, p_x, p_tile, o_m, D, BM, BN, BK, PRECISION)
        b_most, b_sum = add_negatives(b_s, b_threshold, b_most, b_sum, p, NEGATIVE_TERM, MINES)
    for i in range(tl.maximum(begin, n_plain), end):
        o_n = masked_tile(i - n_plain, lo, hi, n_columns, BN) * BN + tl.arange(0, BN)
        o_c = tl.minimum(o_n, n_columns - 1)
        b_s = similarities(b_x, p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
        m = negative_mask(o_n, b_start, b_end, n_columns)
        b_term = NEGATIVE_TERM(b_s, p)
        if MINES:
            b_most = tl.maximum(b_most, tl.max(tl.where(m, b_s, -float("inf")), 1))
            m = m & (b_s > b_threshold[:, None])
        b_sum += tl.sum(tl.where(m, b_term, 0.0), 1)

    p_part = tl.program_id(1).to(tl.int64) * n_rows + o_m
    tl.store(p_most + p_part, b_most, mask=m_m)
    tl.store(p_sum + p_part, b_sum, mask=m_m)
    m_first = (
        tl.program_id(1) + tl.zeros([BM], tl.int32) == 0
    )  # a block: Triton 3.9 interprets no scalar mask
    tl.store(p_threshold + o_m, b_threshold, mask=m_m & m_first)


@triton.jit(do_not_specialize=["n_rows", "n_columns", "n_parts"])
def pair_positives_kernel(
    p_x, p_r, p_start, p_end, p_order, p_norm, p_poison, p_most, p_sum, p_row, p_loss, p,
    n_rows, n_columns, n_parts,
    POSITIVE_THRESHOLD: tl.constexpr, IS_POSITIVE: tl.constexpr, POSITIVE_KEPT: tl.constexpr,
    POSITIVE_TERMS: tl.constexpr, FINISH: tl.constexpr, SELF: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # p_row [4, n_rows], whose first row holds the negative thresholds already; p_loss in the input's order
    i_row = tl.program_id(0) * BM
    o_m = i_row + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    b_most = tl.full([BM], -float("inf"), tl.float32)
    b_negative = tl.zeros([BM], tl.float32)
    for i in range(n_parts):
        p_part = tl.cast(i, tl.int64) * n_rows + o_m
        b_most = tl.maximum(b_most, tl.load(p_most + p_part))
        b_negative += tl.load(p_sum + p_part)
    b_threshold = POSITIVE_THRESHOLD(b_most, b_negative, p)

    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    lo, hi = positive_tiles(p_start, p_end, i_row, n_rows, BM, BN)
    b_x = load_resident(p_x, o_m, D, BK)
    b_first = tl.zeros([BM], tl.float32)
    b_second = tl.zeros([BM], tl.float32)
    for i_n in range(lo, hi):
        o_n = i_n * BN + tl.arange(0, BN)
        o_c = tl.minimum(o_n, n_columns - 1)
        b_s = similarities(b_x, p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
        m = positive_mask(o_m, o_n, b_start, b_end, SELF) & IS_POSITIVE(b_s, p)
        m = m & POSITIVE_KEPT(b_s, b_threshold[:, None], p)
        b_terms, b_others = POSITIVE_TERMS(b_s, b_threshold[:, None], p)
        b_first += tl.sum(tl.where(m, b_terms, 0.0), 1)
        b_second += tl.sum(tl.where(m, b_others, 0.0), 1)

    b_same = b_end - b_start
    b_positives = b_same
    if SELF:
        b_positives -= 1
    b_loss, b_r0, b_r1, b_r2, b_r3 = FINISH(
        tl.load(p_row + o_m), b_threshold, b_negative, b_first, b_second,
        (n_columns - b_same).to(tl.float32), b_positives.to(tl.float32), p,
    )  # fmt: skip
    # a comparison with NaN is false, so a row that is not finite would else be left out in silence
    b_poison = tl.load(p_poison) + tl.load(p_norm + o_m) * 0.0
    p_out = p_row + o_m
    stride = tl.cast(n_rows, tl.int64)
    tl.store(p_out, b_r0, mask=m_m)
    tl.store(p_out + stride, b_r1, mask=m_m)
    tl.store(p_out + 2 * stride, b_r2 + b_poison, mask=m_m)
    tl.store(p_out + 3 * stride, b_r3 + b_poison, mask=m_m)
    tl.store(p_loss + tl.load(p_order + o_m), b_loss + b_poison, mask=m_m)


def pair_losses(
    rule: PairRuleKernels,
    constants: Sequence[float],
    anchors: Tensor,
    candidates: Tensor | None,
    spans: Tensor,
    order: Tensor,
    norms: Tensor,
    poison: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Losses [N], in the order of the input, and the rows [4, N] that the weights read.

    Args:
        anchors: [N, D] unit rows, sorted by label.
        candidates: [M, D] likewise; None compares the anchors with each other.
        spans: [2, N], int32: where each anchor's positives start and end among the candidates.
        order: [N], int64: the input row of every sorted anchor.
        norms: [N], float32: the anchors' norms.
        poison: [], float32: 0, or NaN where a candidate is not finite.
        precision: what ``tl.dot`` does with float32.
    """
    rows, width = anchors.shape
    others = anchors if candidates is None else candidates
    columns = others.shape[0]
    tile = configs.forward_tile(configs.arch(anchors), anchors.dtype, width, precision)
    row_blocks = triton.cdiv(rows, tile.rows)
    splits = configs.column_splits(anchors, row_blocks, triton.cdiv(columns, tile.columns))
    most, total = torch.empty(2, splits, rows, dtype=torch.float32, device=anchors.device)
    row_values = torch.empty(4, rows, dtype=torch.float32, device=anchors.device)
    losses = torch.empty(rows, dtype=torch.float32, device=anchors.device)
    p = tuple(constants)
    fixed: dict[str, Any] = {"SELF": candidates is None, "D": width, "PRECISION": precision}
    pair_negatives_kernel[(row_blocks, splits)](
        anchors, others, spans[0], spans[1], row_values, most, total, p, rows, columns,
        NEGATIVE_THRESHOLD=rule.negative_threshold, IS_POSITIVE=rule.is_positive,
        NEGATIVE_TERM=rule.negative_term, MINES=rule.mines(constants),
        BM=tile.rows, BN=tile.columns, BK=tile.depth, **fixed, **tile.options(),
    )  # fmt: skip
    tile = configs.positive_tile(configs.arch(anchors), anchors.dtype, width, precision)
    pair_positives_kernel[(triton.cdiv(rows, tile.rows),)](
        anchors, others, spans[0], spans[1], order, norms, poison, most, total, row_values, losses, p,
        rows, columns, splits,
        POSITIVE_THRESHOLD=rule.positive_threshold, IS_POSITIVE=rule.is_positive,
        POSITIVE_KEPT=rule.positive_kept, POSITIVE_TERMS=rule.positive_terms, FINISH=rule.finish,
        BM=tile.rows, BN=tile.columns, BK=tile.depth, **fixed, **tile.options(),
    )  # fmt: skip
    return losses, row_values
