"""Gradients of the hinge sums: a vendor product makes a block of inner products, one kernel turns it into
weights while it is in the L2, and two vendor products turn those into gradients.

With weights w = g / distance of the points within the limit, dX = w P - (sum of w by rows) X, and
dP = w^T X - (sum of w by columns) P.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.centroid_rows import Compared
from fastdml.triton_kernels.closeness import EUCLIDEAN, closeness_and_slope
from fastdml.triton_kernels.pair import HALF_SCALE
from fastdml.triton_kernels.pair_block import add_product
from fastdml.triton_kernels.proxy_backward import make_product, padded_block
from fastdml.triton_kernels.tiles import stored

PLACES = ["n_block_rows", "n_block_points", "row0", "point0"]


@triton.jit
def block_weights(
    p_s, p_x_square, p_r_square, p_own, p_limit, p_grad, n_block_rows, n_block_points, stride_row, row0,
    point0, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # [BM, BN] of this program's tile, 0 beyond the block; and where the tile lies in p_s
    o_i = tl.program_id(1) * BM + tl.arange(0, BM)
    o_j = tl.program_id(0) * BN + tl.arange(0, BN)
    m_i = o_i < n_block_rows
    m_j = o_j < n_block_points
    o_m = row0 + o_i
    o_n = point0 + o_j
    # 32 bits hold the places of a block
    o_s = o_i[:, None] * stride_row + o_j[None, :]
    m = m_i[:, None] & m_j[None, :]
    b_s = tl.load(p_s + o_s, mask=m, other=0.0)
    b_q = tl.load(p_x_square + o_m, mask=m_i, other=0.0)
    o_q = tl.load(p_r_square + o_n, mask=m_j, other=0.0)
    b_c, b_slope = closeness_and_slope(b_s, b_q, o_q, EUCLIDEAN)
    b_limit = tl.load(p_limit + o_m, mask=m_i, other=0.0)
    b_own = tl.load(p_own + o_m, mask=m_i, other=-1).to(tl.int32)
    m_within = m & (b_limit[:, None] + b_c > 0.0) & (o_n[None, :] != b_own[:, None])
    b_g = tl.load(p_grad + o_m, mask=m_i, other=0.0)
    return tl.where(m_within, b_g[:, None] * b_slope, 0.0), o_i, o_j, o_s


@triton.jit(do_not_specialize=PLACES)
def largest_hinge_weight_kernel(
    p_s, p_x_square, p_r_square, p_own, p_limit, p_grad, p_largest, n_block_rows, n_block_points, stride_row,
    row0, point0, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # p_largest [programs]
    b_w, _, _, _ = block_weights(
        p_s,
        p_x_square,
        p_r_square,
        p_own,
        p_limit,
        p_grad,
        n_block_rows,
        n_block_points,
        stride_row,
        row0,
        point0,
        BM,
        BN,
    )
    i_program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(p_largest + i_program, tl.max(tl.max(tl.abs(b_w), 1), 0))


@triton.jit(do_not_specialize=PLACES)
def hinge_weights_kernel(
    p_s, p_x_square, p_r_square, p_own, p_limit, p_grad, p_unscale, p_weight, p_row_sum, p_point_sum,
    n_block_rows, n_block_points, stride_row, row0, point0, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # p_weight [n_block_rows, n_block_points], rows stride_row apart, which may replace p_s; sums of the
    # weights as they are stored, p_row_sum [tiles of points, n_block_rows] and p_point_sum [tiles of rows,
    # n_block_points]
    b_w, o_i, o_j, o_s = block_weights(
        p_s,
        p_x_square,
        p_r_square,
        p_own,
        p_limit,
        p_grad,
        n_block_rows,
        n_block_points,
        stride_row,
        row0,
        point0,
        BM,
        BN,
    )
    if p_unscale is not None:
        b_w = b_w / tl.load(p_unscale)
    b_stored = stored(b_w, p_weight.dtype.element_ty)
    m_i = o_i < n_block_rows
    m_j = o_j < n_block_points
    tl.store(p_weight + o_s, b_stored, mask=m_i[:, None] & m_j[None, :])
    b_w = b_stored.to(tl.float32)
    p_row = p_row_sum + tl.program_id(0).to(tl.int64) * n_block_rows
    p_point = p_point_sum + tl.program_id(1).to(tl.int64) * n_block_points
    tl.store(p_row + o_i, tl.sum(b_w, 1), mask=m_i)
    tl.store(p_point + o_j, tl.sum(b_w, 0), mask=m_j)


class _Block(NamedTuple):
    """Weights of some rows and points, and their sums; all are to be multiplied with ``unscale``."""

    weights: Tensor
    """[b, p], in the dtype of products."""
    row_sums: Tensor
    """[tiles, b], float32."""
    point_sums: Tensor
    """[tiles, p], float32."""
    unscale: Tensor | None
    """[], float32; None for 1."""


def hinge_gradients_by_blocks(
    grad: Tensor, rows: Compared, points: Compared, own: Tensor, limits: Tensor, need_rows: bool,
    need_points: bool,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients [B, D] and [P, D], float32, of rows and points; None where not needed.

    Args:
        grad: [B], float32, contiguous: of the sums.
        rows: as in the forward, like the points, ``own`` and ``limits``.
    """
    count, total = len(rows.rows), len(points.rows)
    width = rows.rows.shape[1]
    height = min(count, configs.HINGE_ROWS)
    length = configs.hinge_points(height)
    products = torch.empty(
        height * configs.padded(min(length, total)), dtype=torch.float32, device=own.device
    )
    weights = (
        products if rows.rows.dtype == torch.float32 else torch.empty_like(products, dtype=rows.rows.dtype)
    )
    grad_rows = grad.new_zeros(count, width) if need_rows else None
    grad_points = grad.new_zeros(total, width) if need_points else None
    row_sums, point_sums = grad.new_zeros(count), grad.new_zeros(total)
    for point in range(0, total, length):
        here = slice(point, min(point + length, total))
        for row in range(0, count, height):
            part = slice(row, min(row + height, count))
            block = _block(products, weights, rows, points, part, here, own, limits, grad)
            if grad_rows is not None:
                _add(grad_rows[part], block.weights, points.rows[here], block.unscale)
                _add_sums(row_sums[part], block.row_sums, block.unscale)
            if grad_points is not None:
                _add(grad_points[here], block.weights.T, rows.rows[part], block.unscale)
                _add_sums(point_sums[here], block.point_sums, block.unscale)
    # comparisons with NaN are false, which left it out of the weights
    row_poison, point_poison = rows.squares * 0, points.squares * 0
    if grad_rows is not None:
        grad_rows.addcmul_((row_sums + row_poison + point_poison.sum())[:, None], rows.rows, value=-1)
    if grad_points is not None:
        grad_points.addcmul_((point_sums + point_poison + row_poison.sum())[:, None], points.rows, value=-1)
    return grad_rows, grad_points


def _block(
    products: Tensor, weights: Tensor, rows: Compared, points: Compared, part: slice, here: slice,
    own: Tensor, limits: Tensor, grad: Tensor,
) -> _Block:  # fmt: skip
    """The weights of the rows of ``part`` and the points of ``here``, made in memory that is given."""
    height, length = part.stop - part.start, here.stop - here.start
    products, weights = (padded_block(flat, height, length) for flat in (products, weights))
    make_product(products, rows.rows[part], points.rows[here].T)
    tile = configs.HINGE_WEIGHTS
    grid = configs.cdiv(length, tile.columns), configs.cdiv(height, tile.rows)
    given = products, rows.squares, points.squares, own, limits, grad
    places = height, length, weights.stride(0), part.start, here.start
    unscale = None
    if weights.dtype == torch.float16:
        largest = grad.new_empty(grid[0] * grid[1])
        largest_hinge_weight_kernel[grid](
            *given, largest, *places, BM=tile.rows, BN=tile.columns, **tile.options()
        )
        unscale = largest.nan_to_num(0, 0, 0).amax().clamp_min(2.0**-100) / HALF_SCALE
    row_sums, point_sums = grad.new_empty(grid[0], height), grad.new_empty(grid[1], length)
    hinge_weights_kernel[grid](
        *given, unscale, weights, row_sums, point_sums, *places,
        BM=tile.rows, BN=tile.columns, **tile.options(),
    )  # fmt: skip
    return _Block(weights, row_sums, point_sums, unscale)


def _add(out: Tensor, left: Tensor, right: Tensor, unscale: Tensor | None) -> None:
    """``out += left @ right * unscale``, with float32 sums."""
    if unscale is None:
        add_product(out, left, right)
    else:
        product = torch.empty_like(out)
        make_product(product, left, right)
        out.addcmul_(product, unscale)


def _add_sums(out: Tensor, parts: Tensor, unscale: Tensor | None) -> None:
    """``out += parts.sum(0) * unscale``."""
    sums = parts.sum(dim=0)
    out += sums if unscale is None else sums * unscale
