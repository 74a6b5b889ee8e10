"""Distances to listed points from differences, and their gradients by the rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs


@triton.jit(do_not_specialize=["n_pairs", "n_listed"])
def listed_distances_kernel(
    p_x, p_r, p_listed, p_out, n_pairs, n_listed, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr
):
    # p_out [n_pairs]: pair i is of the row i // n_listed
    o_i = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    b_at = tl.load(p_listed + o_i, mask=o_i < n_pairs, other=-1)
    m_i = b_at >= 0
    p_row = p_x + o_i // n_listed * D
    p_point = p_r + b_at * D
    b_square = tl.zeros([BM], tl.float32)
    for i_k in range(0, D, BK):
        o_k = i_k + tl.arange(0, BK)
        m = m_i[:, None] & (o_k < D)[None, :]
        b_apart = tl.load(p_row[:, None] + o_k[None, :], mask=m, other=0.0)
        b_apart -= tl.load(p_point[:, None] + o_k[None, :], mask=m, other=0.0)
        b_square += tl.sum(b_apart * b_apart, 1)
    tl.store(p_out + o_i, tl.sqrt_rn(b_square), mask=o_i < n_pairs)


@triton.jit(do_not_specialize=["n_rows", "n_listed"])
def listed_row_gradients_kernel(
    p_x, p_r, p_listed, p_weight, p_out, n_rows, n_listed, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr
):
    # p_out [n_rows, D]: sums of weight (x - point) over the points listed, in their order
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    o_d = tl.program_id(1) * BK + tl.arange(0, BK)
    m_m = o_m < n_rows
    m_d = (o_d < D)[None, :]
    p_row = o_m[:, None] * D + o_d[None, :]
    b_x = tl.load(p_x + p_row, mask=m_m[:, None] & m_d, other=0.0)
    b_sum = tl.zeros([BM, BK], tl.float32)
    for i_s in range(n_listed):
        b_at = tl.load(p_listed + o_m * n_listed + i_s, mask=m_m, other=-1)
        m = (b_at >= 0)[:, None] & m_d
        b_r = tl.load(p_r + b_at[:, None] * D + o_d[None, :], mask=m, other=0.0)
        b_w = tl.load(p_weight + o_m * n_listed + i_s, mask=m_m, other=0.0)
        b_sum += tl.where(m, b_w[:, None] * (b_x - b_r), 0.0)
    tl.store(p_out + p_row, b_sum, mask=m_m[:, None] & m_d)


def distances_to_listed(rows: Tensor, points: Tensor, listed: Tensor) -> Tensor:
    """[B, S], float32; 0 where -1 is listed.

    Args:
        rows: [B, D], float32, contiguous.
        points: [P, D], float32, contiguous.
        listed: [B, S], int64, contiguous.
    """
    out = torch.empty(listed.shape, dtype=torch.float32, device=rows.device)
    tile = configs.row_tile(rows.shape[1])
    listed_distances_kernel[(configs.cdiv(listed.numel(), tile.rows),)](
        rows, points, listed, out, listed.numel(), listed.shape[1],
        D=rows.shape[1], BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip
    return out


def listed_row_gradients(rows: Tensor, points: Tensor, listed: Tensor, weights: Tensor) -> Tensor:
    """[B, D], float32; ``weights`` [B, S], float32: gradients by the distances, divided by these."""
    count, width = rows.shape
    out = torch.empty(count, width, dtype=torch.float32, device=rows.device)
    tile = configs.row_tile(width)
    listed_row_gradients_kernel[(configs.cdiv(count, tile.rows), configs.cdiv(width, tile.depth))](
        rows, points, listed, weights, out, count, listed.shape[1],
        D=width, BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip
    return out
