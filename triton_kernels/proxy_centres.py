"""Centres of a chunk of classes on the way in, packed for products, and their gradients on the way out.

Packed centres stand in blocks of classes, the first centres of a block's classes together, then the second
ones, [blocks, K, classes of a block, D]: a tile of classes is contiguous for each of its K centres.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.tiles import stored
from fastdml.triton_kernels.units import SMALLEST_NORM


@triton.jit
def packed_row(o_j, n_classes, n_block, n_per_class):
    # [..]: where the centres o_j of a chunk, in the order of the parameter, are packed
    o_c = o_j // n_per_class
    i_first = o_c // n_block * n_block
    n_here = tl.minimum(n_block, n_classes - i_first)
    o_row = o_j % n_per_class * n_here + o_c - i_first
    return i_first.to(tl.int64) * n_per_class + o_row


@triton.jit
def load_centres(p_row, m_row, i_d, stride_depth, D: tl.constexpr, BK: tl.constexpr):
    # [rows, BK] in fp32: dimensions i_d.. of centres as they are stored; zeros beyond D
    o_d = i_d + tl.arange(0, BK)
    m = m_row[:, None] & (o_d < D)[None, :]
    p = p_row[:, None] + o_d.to(tl.int64)[None, :] * stride_depth
    return tl.load(p, mask=m, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["first", "n_centres", "n_classes", "n_block", "n_per_class"])
def pack_centres_kernel(
    p_w, p_norm, p_out, stride_centre, stride_depth, first, n_centres, n_classes, n_block, n_per_class,
    NORMALISED: tl.constexpr, MEASURE: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # p_out [n_centres, D]: the centres from ``first`` on; with MEASURE also fills their p_norm, else reads it
    o_j = tl.program_id(0) * BM + tl.arange(0, BM)
    m_j = o_j < n_centres
    o_i = first + o_j.to(tl.int64)
    p_row = p_w + o_i * stride_centre
    if MEASURE:
        b_sum = tl.zeros([BM], tl.float32)
        for i_d in range(0, D, BK):
            b_w = load_centres(p_row, m_j, i_d, stride_depth, D, BK)
            # 0 times what is not finite is NaN, which the length of 1 then shows
            b_sum += tl.sum(b_w * b_w if NORMALISED else b_w * 0.0, 1)
        b_norm = tl.sqrt(b_sum) if NORMALISED else 1.0 + b_sum
        tl.store(p_norm + o_i, b_norm, mask=m_j)
    else:
        b_norm = tl.load(p_norm + o_i, mask=m_j, other=1.0)
    b_length = tl.where(b_norm < SMALLEST_NORM, SMALLEST_NORM, b_norm)
    p_packed = p_out + packed_row(o_j, n_classes, n_block, n_per_class) * D
    for i_d in range(0, D, BK):
        o_d = i_d + tl.arange(0, BK)
        b_w = load_centres(p_row, m_j, i_d, stride_depth, D, BK)
        if NORMALISED:
            b_w = b_w / b_length[:, None]
        m = m_j[:, None] & (o_d < D)[None, :]
        tl.store(p_packed[:, None] + o_d[None, :], stored(b_w, p_out.dtype.element_ty), mask=m)


@triton.jit(do_not_specialize=["first", "n_centres", "n_classes", "n_block", "n_per_class"])
def unpack_gradients_kernel(
    p_grad, p_w, p_norm, p_unscale, p_out, stride_centre, stride_depth, stride_out_centre, stride_out_depth,
    first, n_centres, n_classes, n_block, n_per_class,
    NORMALISED: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # p_out: gradients of the centres from ``first`` on as stored, from those of packed ones, p_grad [.., D]
    o_j = tl.program_id(0) * BM + tl.arange(0, BM)
    m_j = o_j < n_centres
    o_i = first + o_j.to(tl.int64)
    p_row = p_w + o_i * stride_centre
    p_packed = p_grad + packed_row(o_j, n_classes, n_block, n_per_class) * D
    p_row_out = p_out + o_i * stride_out_centre
    b_norm = tl.load(p_norm + o_i, mask=m_j, other=1.0)
    m_short = b_norm < SMALLEST_NORM
    b_length = tl.where(m_short, SMALLEST_NORM, b_norm)
    b_along = tl.zeros([BM], tl.float32)
    if NORMALISED:
        for i_d in range(0, D, BK):
            b_u = load_centres(p_row, m_j, i_d, stride_depth, D, BK) / b_length[:, None]
            b_along += tl.sum(load_centres(p_packed, m_j, i_d, 1, D, BK) * b_u, 1)
        # a centre too short to be normalised was divided by a constant
        b_along = tl.where(m_short, 0.0, b_along)
    for i_d in range(0, D, BK):
        o_d = i_d + tl.arange(0, BK)
        b_g = load_centres(p_packed, m_j, i_d, 1, D, BK)
        if NORMALISED:
            b_u = load_centres(p_row, m_j, i_d, stride_depth, D, BK) / b_length[:, None]
            b_g = (b_g - b_along[:, None] * b_u) / b_length[:, None]
        if p_unscale is not None:
            b_g *= tl.load(p_unscale)
        m = m_j[:, None] & (o_d < D)[None, :]
        p = p_row_out[:, None] + o_d.to(tl.int64)[None, :] * stride_out_depth
        tl.store(p, stored(b_g, p_out.dtype.element_ty), mask=m)


class Chunk(NamedTuple):
    """Classes whose centres are packed together, and where."""

    first: int
    """The first of them."""
    classes: int
    places: int
    """Classes that there is room for, of which those beyond the chunk's own are left as they are."""
    block: int
    """Classes of a block."""
    per_class: int

    @property
    def centres(self) -> int:
        """How many centres the chunk has."""
        return self.classes * self.per_class

    def arguments(self) -> tuple[int, ...]:
        """First centre and number of centres, places, classes of a block and K, as kernels take them."""
        return self.first * self.per_class, self.centres, self.places, self.block, self.per_class


def pack_centres(
    out: Tensor, centres: Tensor, norms: Tensor, chunk: Chunk, normalised: bool, measure: bool
) -> None:
    """Fills ``out`` with the packed centres of a chunk.

    Args:
        out: [places K, D], in the dtype that products take.
        centres: [C K, D] as they are stored, of any strides and floating dtype.
        norms: [C K], float32: the lengths of the centres; ones where they are not ``normalised``, but NaN
            for one that is not finite.
        chunk: what to pack.
        normalised: whether centres are scaled to length one.
        measure: whether to fill the norms of the chunk, which are read otherwise.
    """
    width = centres.shape[1]
    tile = configs.centre_tile(width, centres.stride(1) == 1)
    pack_centres_kernel[(configs.cdiv(chunk.centres, tile.rows),)](
        centres, norms, out, *centres.stride(), *chunk.arguments(),
        NORMALISED=normalised, MEASURE=measure, D=width, BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip


def unpack_gradients(
    out: Tensor, grads: Tensor, unscale: Tensor | None, centres: Tensor, norms: Tensor, chunk: Chunk,
    normalised: bool,
) -> None:  # fmt: skip
    """Fills a chunk's part of ``out`` [C K, D], of any strides, from the gradients of its packed centres.

    Args:
        out: gradients of the centres as they are stored.
        grads: [places K, D], float32, packed.
        unscale: [], float32: what the gradients are to be multiplied with; None for 1.
        centres: as for :func:`pack_centres`, like the rest.
    """
    width = centres.shape[1]
    tile = configs.centre_tile(width, centres.stride(1) == 1)
    unpack_gradients_kernel[(configs.cdiv(chunk.centres, tile.rows),)](
        grads, centres, norms, unscale, out, *centres.stride(), *out.stride(), *chunk.arguments(),
        NORMALISED=normalised, D=width, BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip
