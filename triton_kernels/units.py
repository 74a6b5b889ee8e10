"""Unit rows in label order, their squared lengths, and their gradients turned into those of the rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.tiles import NUMBERS_OF_ROWS, stored

# Rows of a program that only moves a few numbers of each.
GATHERED_ROWS = 256
SMALLEST_NORM = tl.constexpr(1e-12)  # as torch.nn.functional.normalize


@triton.jit(do_not_specialize=["n_rows"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def unit_rows_kernel(
    p_x, p_order, p_unit, p_norm, n_rows, stride_row, stride_column,
    D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # p_unit[k] = p_x[order[k]] / norm, p_norm[k] = that row's L2 norm
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    b_order = tl.load(p_order + o_m, mask=m_m, other=0)
    p_row = p_x + b_order[:, None] * stride_row
    b_squares = tl.zeros([BM], tl.float32)
    for i_k in range(0, D, BK):
        o_k = i_k + tl.arange(0, BK)
        m = m_m[:, None] & (o_k < D)[None, :]
        b_x = tl.load(p_row + o_k.to(tl.int64)[None, :] * stride_column, mask=m, other=0.0).to(tl.float32)
        b_squares += tl.sum(b_x * b_x, 1)
    b_norm = tl.sqrt(b_squares)
    tl.store(p_norm + o_m, b_norm, mask=m_m)
    b_length = tl.where(b_norm < SMALLEST_NORM, SMALLEST_NORM, b_norm)
    for i_k in range(0, D, BK):
        o_k = i_k + tl.arange(0, BK)
        m = m_m[:, None] & (o_k < D)[None, :]
        b_x = tl.load(p_row + o_k.to(tl.int64)[None, :] * stride_column, mask=m, other=0.0).to(tl.float32)
        b_unit = stored(b_x / b_length[:, None], p_unit.dtype.element_ty)
        tl.store(p_unit + o_m[:, None] * D + o_k[None, :], b_unit, mask=m)


@triton.jit(do_not_specialize=["n_rows", "stride"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def sorted_gradients_kernel(p_grad, p_order, p_norm, p_longest, p_out, n_rows, stride, BM: tl.constexpr):
    # p_out [3, n_rows], of the sorted rows; p_grad in the input's order, its rows `stride` apart. NaN where a
    # row is not finite, and everywhere where a candidate is not
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    b_order = tl.load(p_order + o_m, mask=m_m, other=0)
    b_poison = (tl.load(p_longest) + tl.load(p_norm + o_m, mask=m_m, other=0.0)) * 0.0
    for i in tl.static_range(3):
        b_grad = tl.load(p_grad + i * tl.cast(stride, tl.int64) + b_order, mask=m_m, other=0.0)
        tl.store(p_out + i * tl.cast(n_rows, tl.int64) + o_m, b_grad + b_poison, mask=m_m)


@triton.jit(do_not_specialize=["n_rows", "n_parts"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def row_gradients_kernel(
    p_grad, p_unit, p_norm, p_order, p_unscale, p_out, n_rows, n_parts,
    D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # p_out[order[k]] = (g - (g.u) u) / norm, g the sum of the slices of p_grad [n_parts, n_rows, D] in their
    # order; a row too short to be normalised was divided by a constant
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    p_row = p_grad + o_m[:, None] * D
    part = n_rows.to(tl.int64) * D
    b_along = tl.zeros([BM], tl.float32)
    for i_k in range(0, D, BK):
        o_k = i_k + tl.arange(0, BK)
        m = m_m[:, None] & (o_k < D)[None, :]
        b_g = tl.zeros([BM, BK], tl.float32)
        for i in range(n_parts):
            b_g += tl.load(p_row + i * part + o_k[None, :], mask=m, other=0.0)
        b_u = tl.load(p_unit + o_m[:, None] * D + o_k[None, :], mask=m, other=0.0).to(tl.float32)
        b_along += tl.sum(b_g * b_u, 1)
    b_norm = tl.load(p_norm + o_m, mask=m_m, other=1.0)
    m_short = b_norm < SMALLEST_NORM
    b_along = tl.where(m_short, 0.0, b_along)
    b_factor = 1.0 / tl.where(m_short, SMALLEST_NORM, b_norm)
    if p_unscale is not None:
        b_factor *= tl.load(p_unscale)
    b_order = tl.load(p_order + o_m, mask=m_m, other=0)
    for i_k in range(0, D, BK):
        o_k = i_k + tl.arange(0, BK)
        m = m_m[:, None] & (o_k < D)[None, :]
        b_g = tl.zeros([BM, BK], tl.float32)
        for i in range(n_parts):
            b_g += tl.load(p_row + i * part + o_k[None, :], mask=m, other=0.0)
        b_u = tl.load(p_unit + o_m[:, None] * D + o_k[None, :], mask=m, other=0.0).to(tl.float32)
        b_out = stored((b_g - b_along[:, None] * b_u) * b_factor[:, None], p_out.dtype.element_ty)
        tl.store(p_out + b_order[:, None] * D + o_k[None, :], b_out, mask=m)


@triton.jit(do_not_specialize=["n_rows"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def squared_lengths_kernel(p_unit, p_square, n_rows, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    # p_square[k] = |p_unit[k]|^2: of 16 bits, unit rows are not quite of length 1
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    b_squares = tl.zeros([BM], tl.float32)
    for i_k in range(0, D, BK):
        o_k = i_k + tl.arange(0, BK)
        m = m_m[:, None] & (o_k < D)[None, :]
        b_u = tl.load(p_unit + o_m[:, None] * D + o_k[None, :], mask=m, other=0.0).to(tl.float32)
        b_squares += tl.sum(b_u * b_u, 1)
    tl.store(p_square + o_m, b_squares, mask=m_m)


def unit_rows(embeddings: Tensor, order: Tensor, units: Tensor, norms: Tensor) -> None:
    """Fills ``units`` [N, D] and ``norms`` [N] with the rows of ``embeddings`` [N, D] in the order given."""
    rows, width = embeddings.shape
    tile = configs.row_tile(width)
    unit_rows_kernel[(configs.cdiv(rows, tile.rows),)](
        embeddings, order, units, norms, rows, embeddings.stride(0), embeddings.stride(1),
        D=width, BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip


def sorted_gradients(grads: Tensor, order: Tensor, norms: Tensor, longest: Tensor, anchors: int) -> Tensor:
    """Gradients [3, N] of the sums of the anchors, from the order of the input to that of the sorted rows.

    Args:
        grads: [3, N], float32, in the order of the input.
        order: [N + M], int64, anchors first.
        norms: [N + M], float32: a row that is not finite makes its own gradients NaN.
        longest: [], float32: the largest norm of the candidates; not finite, it makes all NaN.
    """
    grads = grads.contiguous()
    found = torch.empty_like(grads)
    sorted_gradients_kernel[(configs.cdiv(anchors, GATHERED_ROWS),)](
        grads, order, norms, longest, found, anchors, grads.stride(0), BM=GATHERED_ROWS, num_warps=4
    )
    return found


def squared_lengths(units: Tensor) -> Tensor:
    """Squared lengths [N], float32, of ``units`` [N, D] as they are stored."""
    rows, width = units.shape
    squares = torch.empty(rows, dtype=torch.float32, device=units.device)
    tile = configs.row_tile(width)
    squared_lengths_kernel[(configs.cdiv(rows, tile.rows),)](
        units, squares, rows, D=width, BM=tile.rows, BK=tile.depth, **tile.options()
    )
    return squares


def row_gradients(
    grads: Tensor, units: Tensor, norms: Tensor, order: Tensor, unscale: Tensor | None
) -> Tensor:
    """Gradients [N, D] of the rows, in the order and dtype of the input.

    Args:
        grads: [parts, N, D], float32: parts of the gradients of the sorted unit rows.
        unscale: [], float32: what the gradients are to be multiplied with; None for 1.
    """
    parts, rows, width = grads.shape
    out = torch.empty(rows, width, dtype=units.dtype, device=units.device)
    tile = configs.row_tile(width)
    row_gradients_kernel[(configs.cdiv(rows, tile.rows),)](
        grads, units, norms, order, unscale, out, rows, parts,
        D=width, BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip
    return out
