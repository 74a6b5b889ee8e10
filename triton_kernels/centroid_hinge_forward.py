"""Hinge sums: of every row, how much nearer than its limit other points are; no distance leaves the chip."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.centroid_rows import Compared
from fastdml.triton_kernels.centroid_segments import add_compensated
from fastdml.triton_kernels.closeness import EUCLIDEAN, closeness_and_slope
from fastdml.triton_kernels.pair import precision_of
from fastdml.triton_kernels.tiles import load_resident, share, similarities


@triton.jit(do_not_specialize=["n_rows", "n_points"])
def hinge_sums_kernel(
    p_x, p_r, p_x_square, p_r_square, p_own, p_limit, p_sum, n_rows, n_points,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # p_sum [2, splits, n_rows]: sums and counts over this program's points
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    b_own = tl.load(p_own + o_m).to(tl.int32)
    b_limit = tl.load(p_limit + o_m)
    b_q = tl.load(p_x_square + o_m)
    b_sum = tl.zeros([BM], tl.float32)
    b_lost = tl.zeros([BM], tl.float32)
    b_count = tl.zeros([BM], tl.int32)
    b_x = load_resident(p_x, o_m, D, BK)
    begin, end = share(tl.cdiv(n_points, BN))
    for i_n in range(begin, end):
        o_n = i_n * BN + tl.arange(0, BN)
        o_c = tl.minimum(o_n, n_points - 1)
        o_q = tl.load(p_r_square + o_c)
        b_s = similarities(b_x, p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
        b_c, _ = closeness_and_slope(b_s, b_q, o_q, EUCLIDEAN)
        b_slack = b_limit[:, None] + b_c
        m = (b_slack > 0.0) & (o_n < n_points)[None, :] & (o_n[None, :] != b_own[:, None])
        b_sum, b_lost = add_compensated(b_sum, b_lost, tl.sum(tl.where(m, b_slack, 0.0), 1))
        b_count += tl.sum(m.to(tl.int32), 1)
    p_of_row = p_sum + tl.program_id(1).to(tl.int64) * n_rows + o_m
    tl.store(p_of_row, b_sum, mask=m_m)
    tl.store(p_of_row + tl.num_programs(1).to(tl.int64) * n_rows, b_count.to(tl.float32), mask=m_m)


def sums_and_counts(rows: Compared, points: Compared, own: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """[B] each, float32; what is not finite counts as far away.

    Args:
        rows: B of them.
        points: P, at least 1.
        own: [B], int64, contiguous: a point that is left out; -1: none.
        limits: [B], float32, contiguous, in the scale of the rows.
    """
    (count, width), total = rows.rows.shape, len(points.rows)
    precision = precision_of(rows.rows)
    tile = configs.hinge_tile(configs.arch(rows.rows), rows.rows.dtype, width, precision)
    row_blocks = configs.cdiv(count, tile.rows)
    splits = configs.class_splits(rows.rows, row_blocks, configs.cdiv(total, tile.columns))
    sums = torch.empty(2, splits, count, dtype=torch.float32, device=own.device)
    hinge_sums_kernel[(row_blocks, splits)](
        rows.rows, points.rows, rows.squares, points.squares, own, limits, sums, count, total,
        D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth, PRECISION=precision, **tile.options(),
    )  # fmt: skip
    return sums[0].sum(dim=0), sums[1].sum(dim=0)
