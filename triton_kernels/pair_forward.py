"""Forward of the pair engine: sums over the negatives of every anchor, then over its positives."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.closeness import closeness_and_slope, load_squares
from fastdml.triton_kernels.pair_call import PairCall, Side
from fastdml.triton_kernels.tiles import (
    NUMBERS_OF_ROWS,
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

# What the programs of a row block hand on: sum, second sum, largest closeness, number, largest weight.
PARTS = tl.constexpr(5)


@triton.jit
def sum_of_kept(b, m):
    return tl.sum(tl.where(m, b, 0.0), 1)


@triton.jit
def largest_of_kept(b, m):
    return tl.max(tl.abs(tl.where(m, b, 0.0)), 1)


@triton.jit
def load_given(p_given, o, BM: tl.constexpr):
    # [BM]: the numbers that the terms were given, in the input's order; 0 without
    return tl.zeros([BM], tl.float32) if p_given is None else tl.load(p_given + o)


@triton.jit
def least_positive(
    b_x, p_x, p_r, p_r_square, b_q, o_m, b_start, b_end, b_own, lo, hi, n_columns, limits,
    SELECTS: tl.constexpr, KIND: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # [BM]: closeness of the least close positive that is no copy
    b_least = tl.full([BM], float("inf"), tl.float32)
    for i_n in range(lo, hi):
        o_n = i_n * BN + tl.arange(0, BN)
        o_c = tl.minimum(o_n, n_columns - 1)
        b_s = similarities(b_x, p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
        b_c, _ = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_c, KIND), KIND)
        m = positive_mask(o_n, b_start, b_end, b_own)
        if SELECTS:
            m = m & (b_c < limits[2])
        b_least = tl.minimum(b_least, tl.min(tl.where(m, b_c, float("inf")), 1))
    return b_least


@triton.jit
def add_negatives(
    b_c, b_slope, m, b_row, b_threshold, b_most, b_sum, b_second, b_count, b_bound, p,
    NEGATIVE_TERMS: tl.constexpr, NEGATIVE_WEIGHT: tl.constexpr, SELECTS: tl.constexpr, SECOND: tl.constexpr,
    BOUNDS: tl.constexpr,
):  # fmt: skip
    b_most = tl.maximum(b_most, tl.max(tl.where(m, b_c, -float("inf")), 1))
    if SELECTS:
        m = m & (b_c > b_threshold[:, None])
    b_first, b_other = NEGATIVE_TERMS(b_c, b_row[:, None], p)
    b_sum += sum_of_kept(b_first, m)
    if BOUNDS:
        b_w = NEGATIVE_WEIGHT(b_c, b_row[:, None], p) * b_slope
        b_bound = tl.maximum(b_bound, largest_of_kept(b_w, m))
    if SELECTS:
        b_count += tl.sum(m.to(tl.int32), 1)
    if SECOND:
        b_second += sum_of_kept(b_other, m)
    return b_most, b_sum, b_second, b_count, b_bound


@triton.jit(do_not_specialize=["n_rows", "n_columns"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def pair_negatives_kernel(
    p_x, p_r, p_x_square, p_r_square, p_start, p_end, p_own, p_order, p_given, p_row, p_part, p, limits,
    n_rows, n_columns,
    NEGATIVE_TERMS: tl.constexpr, NEGATIVE_WEIGHT: tl.constexpr, SELECTS: tl.constexpr,
    RELATIVE: tl.constexpr, SECOND: tl.constexpr, BOUNDS: tl.constexpr, KIND: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # fills p_row[0] of [4, n_rows], and p_part [PARTS, splits, n_rows] over this program's columns
    i_row = tl.program_id(0) * BM
    o_m = i_row + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    b_q = load_squares(p_x_square, o_m, KIND)
    b_row = load_given(p_given, tl.load(p_order + o_m), BM)
    lo, hi = positive_tiles(p_start, p_end, i_row, n_rows, BM, BN)
    b_x = load_resident(p_x, o_m, D, BK)
    # tiles with a mask are visited in halves: masks take registers, and these tiles are few
    HALF: tl.constexpr = BN // 2

    b_threshold = tl.full([BM], -float("inf"), tl.float32)
    if SELECTS:
        b_threshold = tl.zeros([BM], tl.float32) + limits[0]
        if RELATIVE:
            b_own = tl.load(p_own + o_m)
            b_least = least_positive(
                b_x, p_x, p_r, p_r_square, b_q, o_m, b_start, b_end, b_own, 2 * lo, 2 * hi, n_columns, limits,
                SELECTS, KIND, D, BM, HALF, BK, PRECISION,
            )  # fmt: skip
            b_threshold = b_least - limits[0]

    b_most = tl.full([BM], -float("inf"), tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    b_second = tl.zeros([BM], tl.float32)
    b_count = tl.zeros([BM], tl.int32)
    b_bound = tl.zeros([BM], tl.float32)
    n_plain = plain_count(lo, hi, n_columns, BN)
    begin, end = share(tl.cdiv(n_columns, BN))
    for i in range(begin, tl.minimum(end, n_plain)):
        i_n = plain_tile(i, lo, hi)
        p_tile = p_r + i_n.to(tl.int64) * (BN * D)
        b_s = plain_similarities(b_x, p_x, p_tile, o_m, D, BM, BN, BK, PRECISION)
        o_q = load_squares(p_r_square, i_n * BN + tl.arange(0, BN), KIND)
        b_c, b_slope = closeness_and_slope(b_s, b_q, o_q, KIND)
        m = tl.full([BM, BN], True, tl.int1)
        b_most, b_sum, b_second, b_count, b_bound = add_negatives(
            b_c, b_slope, m, b_row, b_threshold, b_most, b_sum, b_second, b_count, b_bound, p,
            NEGATIVE_TERMS, NEGATIVE_WEIGHT, SELECTS, SECOND, BOUNDS,
        )  # fmt: skip
    for i in range(2 * tl.maximum(begin, n_plain), 2 * end):
        i_n = masked_tile(i // 2 - n_plain, lo, hi, n_columns, BN)
        o_n = i_n * BN + (i % 2) * HALF + tl.arange(0, HALF)
        o_c = tl.minimum(o_n, n_columns - 1)
        b_s = similarities(b_x, p_x, p_r, o_m, o_c, D, BM, HALF, BK, PRECISION)
        b_c, b_slope = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_c, KIND), KIND)
        m = negative_mask(o_n, b_start, b_end, n_columns)
        b_most, b_sum, b_second, b_count, b_bound = add_negatives(
            b_c, b_slope, m, b_row, b_threshold, b_most, b_sum, b_second, b_count, b_bound, p,
            NEGATIVE_TERMS, NEGATIVE_WEIGHT, SELECTS, SECOND, BOUNDS,
        )  # fmt: skip

    p_out = p_part + tl.program_id(1).to(tl.int64) * n_rows + o_m
    stride = tl.num_programs(1).to(tl.int64) * n_rows
    tl.store(p_out, b_sum, mask=m_m)
    tl.store(p_out + stride, b_second, mask=m_m)
    tl.store(p_out + 2 * stride, b_most, mask=m_m)
    tl.store(p_out + 3 * stride, b_count.to(tl.float32), mask=m_m)
    tl.store(p_out + 4 * stride, b_bound, mask=m_m)
    m_first = (
        tl.program_id(1) + tl.zeros([BM], tl.int32) == 0
    )  # a block: Triton 3.9 interprets no scalar mask
    tl.store(p_row + o_m, b_threshold, mask=m_m & m_first)


@triton.jit(
    do_not_specialize=["n_rows", "n_columns", "n_parts"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS
)
def pair_positives_kernel(
    p_x, p_r, p_x_square, p_r_square, p_start, p_end, p_own, p_order, p_given, p_norm, p_longest, p_part,
    p_row, p_statistic, p_bound, p, limits, n_rows, n_columns, n_parts,
    POSITIVE_ROW: tl.constexpr, POSITIVE_TERMS: tl.constexpr, POSITIVE_WEIGHTS: tl.constexpr,
    SELECTS: tl.constexpr, RELATIVE: tl.constexpr, READS_LEAST: tl.constexpr, BOUNDS: tl.constexpr,
    KIND: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # fills p_row[1] to p_row[3] of [4, n_rows], p_bound [3, n_rows], and p_statistic [8, n_rows], in the
    # input's order
    i_row = tl.program_id(0) * BM
    o_m = i_row + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    stride = tl.cast(n_rows, tl.int64)
    b_negative = tl.zeros([BM], tl.float32)
    b_negative_second = tl.zeros([BM], tl.float32)
    b_most = tl.full([BM], -float("inf"), tl.float32)
    b_negatives = tl.zeros([BM], tl.float32)
    b_bound = tl.zeros([BM], tl.float32)
    for i in range(n_parts):
        p_in = p_part + i * stride + o_m
        b_negative += tl.load(p_in)
        b_negative_second += tl.load(p_in + n_parts * stride)
        b_most = tl.maximum(b_most, tl.load(p_in + 2 * n_parts * stride))
        b_negatives += tl.load(p_in + 3 * n_parts * stride)
        b_bound = tl.maximum(b_bound, tl.load(p_in + 4 * n_parts * stride))

    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    b_own = tl.load(p_own + o_m)
    b_q = load_squares(p_x_square, o_m, KIND)
    lo, hi = positive_tiles(p_start, p_end, i_row, n_rows, BM, BN)
    b_x = load_resident(p_x, o_m, D, BK)
    b_least = tl.full([BM], float("inf"), tl.float32)
    if READS_LEAST:
        b_least = least_positive(
            b_x, p_x, p_r, p_r_square, b_q, o_m, b_start, b_end, b_own, lo, hi, n_columns, limits,
            SELECTS, KIND, D, BM, BN, BK, PRECISION,
        )  # fmt: skip
    b_order = tl.load(p_order + o_m)
    b_given = load_given(p_given, b_order, BM)
    b_row = POSITIVE_ROW(b_given, b_least, b_most, b_negative, p)
    b_threshold = tl.full([BM], float("inf"), tl.float32)
    if SELECTS:
        b_threshold = b_most + limits[1] if RELATIVE else tl.zeros([BM], tl.float32) + limits[1]

    b_first = tl.zeros([BM], tl.float32)
    b_second = tl.zeros([BM], tl.float32)
    b_positives = tl.zeros([BM], tl.float32)
    b_first_bound = tl.zeros([BM], tl.float32)
    b_second_bound = tl.zeros([BM], tl.float32)
    for i_n in range(lo, hi):
        o_n = i_n * BN + tl.arange(0, BN)
        o_c = tl.minimum(o_n, n_columns - 1)
        b_s = similarities(b_x, p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
        b_c, b_slope = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_c, KIND), KIND)
        m = positive_mask(o_n, b_start, b_end, b_own)
        if SELECTS:
            m = m & (b_c < limits[2])
        if not READS_LEAST:
            b_least = tl.minimum(b_least, tl.min(tl.where(m, b_c, float("inf")), 1))
        if SELECTS:
            m = m & (b_c < b_threshold[:, None])
            b_positives += tl.sum(m.to(tl.int32), 1).to(tl.float32)
        b_terms, b_others = POSITIVE_TERMS(b_c, b_row[:, None], p)
        b_first += sum_of_kept(b_terms, m)
        b_second += sum_of_kept(b_others, m)
        if BOUNDS:
            b_w, b_other_w = POSITIVE_WEIGHTS(b_c, b_row[:, None], p)
            b_first_bound = tl.maximum(b_first_bound, largest_of_kept(b_w * b_slope, m))
            b_second_bound = tl.maximum(b_second_bound, largest_of_kept(b_other_w * b_slope, m))

    if not SELECTS:
        b_itself = ((b_own >= b_start) & (b_own < b_end)).to(tl.int32)
        b_positives = (b_end - b_start - b_itself).to(tl.float32)
        b_negatives = (n_columns - b_end + b_start).to(tl.float32)
    # a comparison with NaN is false, so a row that is not finite would else be left out in silence
    b_poison = (tl.load(p_longest) + tl.load(p_norm + o_m)) * 0.0
    p_out = p_statistic + b_order
    tl.store(p_out, b_negative + b_poison, mask=m_m)
    tl.store(p_out + stride, b_negative_second, mask=m_m)
    tl.store(p_out + 2 * stride, b_first + b_poison, mask=m_m)
    tl.store(p_out + 3 * stride, b_second, mask=m_m)
    tl.store(p_out + 4 * stride, b_most, mask=m_m)
    tl.store(p_out + 5 * stride, b_least, mask=m_m)
    tl.store(p_out + 6 * stride, b_positives, mask=m_m)
    tl.store(p_out + 7 * stride, b_negatives, mask=m_m)
    tl.store(p_row + stride + o_m, b_threshold, mask=m_m)
    tl.store(p_row + 2 * stride + o_m, b_given, mask=m_m)
    tl.store(p_row + 3 * stride + o_m, b_row, mask=m_m)
    if BOUNDS:
        tl.store(p_bound + o_m, b_bound, mask=m_m)
        tl.store(p_bound + stride + o_m, b_first_bound, mask=m_m)
        tl.store(p_bound + 2 * stride + o_m, b_second_bound, mask=m_m)


class Gathered(NamedTuple):
    """What the forward finds of N anchors, float32."""

    statistics: Tensor
    """[8, N], in the order of the input."""
    rows: Tensor
    """[4, N], sorted: thresholds of negatives and of positives, rows of the terms of either."""
    bounds: Tensor
    """[3, N], sorted: largest weights, of negatives and of positives by either sum; [3, 0]: not wanted."""


def pair_statistics(
    call: PairCall,
    anchors: Side,
    candidates: Side | None,
    row: Tensor | None,
    order: Tensor,
    norms: Tensor,
    longest: Tensor,
    bounds: bool,
) -> Gathered:
    """Sums of every anchor over its pairs, and what its weights read.

    Args:
        anchors: N rows.
        candidates: M rows; None compares the anchors with each other.
        row: [N], float32, in the order of the input: one number of each anchor for the terms; None for 0.
        order: [N], int64: the input row of every sorted anchor.
        norms: [N], float32: the anchors' norms.
        longest: [], float32: the largest norm of the candidates.
        bounds: whether the largest weights are wanted.
    """
    rows, width = anchors.units.shape
    others = anchors if candidates is None else candidates
    columns = others.units.shape[0]

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float32, device=anchors.units.device)

    arch, dtype = configs.arch(anchors.units), anchors.units.dtype
    tile = configs.forward_tile(arch, dtype, width, call.precision, call.light)
    row_blocks = configs.cdiv(rows, tile.rows)
    splits = configs.column_splits(anchors.units, row_blocks, configs.cdiv(columns, tile.columns))
    parts = empty(PARTS.value, splits, rows)
    found = Gathered(empty(8, rows), empty(4, rows), empty(3, rows if bounds else 0))
    start, end, own = anchors.spans
    pair_negatives_kernel[(row_blocks, splits)](
        anchors.units, others.units, anchors.squares, others.squares, start, end, own, order, row, found.rows,
        parts, call.p, call.limits, rows, columns,
        BOUNDS=bounds, D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth,
        **call.negative_sums(), **tile.options(),
    )  # fmt: skip
    tile = configs.positive_tile(arch, dtype, width, call.precision, call.light)
    pair_positives_kernel[(configs.cdiv(rows, tile.rows),)](
        anchors.units, others.units, anchors.squares, others.squares, start, end, own, order, row, norms,
        longest, parts, found.rows, found.statistics, found.bounds, call.p, call.limits, rows, columns,
        splits,
        BOUNDS=bounds, D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth,
        **call.positive_sums(), **tile.options(),
    )  # fmt: skip
    return found
