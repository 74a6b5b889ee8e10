"""Distances between the centres of each class, and gradients of their sums by the unit centres.

Distances are lengths of differences, all in float32: 2 - 2 <u, v> would lose the digits of centres that have
almost merged.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.rules.proxy import APART
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.proxy_centres import Chunk, load_centres, packed_row
from fastdml.triton_kernels.units import SMALLEST_NORM


@triton.jit
def shortfall(b_norm):
    # what the squared length of a unit centre lacks of 1: something where the centre was too short alone
    b_length = b_norm / SMALLEST_NORM
    return tl.where(b_norm < SMALLEST_NORM, 1.0 - b_length * b_length, 0.0)


@triton.jit
def load_units(p_w, o_i, b_norm, m_i, i_d, stride_centre, stride_depth, D: tl.constexpr, BK: tl.constexpr):
    # [rows, BK] of the centres o_i
    b_inverse = 1.0 / tl.where(b_norm < SMALLEST_NORM, SMALLEST_NORM, b_norm)
    return load_centres(p_w + o_i * stride_centre, m_i, i_d, stride_depth, D, BK) * b_inverse[:, None]


@triton.jit(do_not_specialize=["first", "n_centres", "n_per_class"])
def centre_distances_kernel(
    p_w, p_norm, p_distance, stride_centre, stride_depth, apart, first, n_centres, n_per_class,
    D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # p_distance [n_centres, K]: sqrt(2 + apart - 2 <u, v>) of the centres from ``first`` on, each with all of
    # its class
    o_j = tl.program_id(0) * BM + tl.arange(0, BM)
    m_j = o_j < n_centres
    o_i = first + o_j.to(tl.int64)
    o_class = o_i // n_per_class * n_per_class
    b_norm = tl.load(p_norm + o_i, mask=m_j, other=1.0)
    for i_k in range(n_per_class):
        b_other = tl.load(p_norm + o_class + i_k, mask=m_j, other=1.0)
        b_squares = shortfall(b_norm) + shortfall(b_other) + apart
        for i_d in range(0, D, BK):
            b_u = load_units(p_w, o_i, b_norm, m_j, i_d, stride_centre, stride_depth, D, BK)
            b_v = load_units(p_w, o_class + i_k, b_other, m_j, i_d, stride_centre, stride_depth, D, BK)
            b_squares += tl.sum((b_u - b_v) * (b_u - b_v), 1)
        tl.store(p_distance + o_j.to(tl.int64) * n_per_class + i_k, tl.sqrt(b_squares), mask=m_j)


@triton.jit(do_not_specialize=["first", "n_centres", "n_classes", "n_block", "n_per_class"])
def spread_gradients_kernel(
    p_w, p_norm, p_weight, p_out, stride_centre, stride_depth, first, n_centres, n_classes, n_block,
    n_per_class, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # adds to the packed gradients p_out [.., D]; p_weight [n_centres, K]: gradients by the distances, each
    # divided by it
    o_j = tl.program_id(0) * BM + tl.arange(0, BM)
    m_j = o_j < n_centres
    o_i = first + o_j.to(tl.int64)
    o_class = o_i // n_per_class * n_per_class
    b_norm = tl.load(p_norm + o_i, mask=m_j, other=1.0)
    # what lies along a centre is lost in its normalisation, so differences serve, small ones of merged
    # centres; but not where a centre was too short for it
    b_keep = tl.where(b_norm < SMALLEST_NORM, 0.0, 1.0)[:, None]
    p_row = p_out + packed_row(o_j, n_classes, n_block, n_per_class) * D
    for i_d in range(0, D, BK):
        o_d = i_d + tl.arange(0, BK)
        b_u = load_units(p_w, o_i, b_norm, m_j, i_d, stride_centre, stride_depth, D, BK) * b_keep
        b_sum = load_centres(p_row, m_j, i_d, 1, D, BK)
        for i_k in range(n_per_class):
            b_other = tl.load(p_norm + o_class + i_k, mask=m_j, other=1.0)
            b_v = load_units(p_w, o_class + i_k, b_other, m_j, i_d, stride_centre, stride_depth, D, BK)
            b_w = tl.load(p_weight + o_j.to(tl.int64) * n_per_class + i_k, mask=m_j, other=0.0)
            b_sum += b_w[:, None] * (b_u - b_v)
        m = m_j[:, None] & (o_d < D)[None, :]
        tl.store(p_row[:, None] + o_d[None, :], b_sum, mask=m)


def _distances(centres: Tensor, norms: Tensor, chunk: Chunk) -> Tensor:
    """[n, K, K], float32."""
    width = centres.shape[1]
    shape = chunk.classes, chunk.per_class, chunk.per_class
    found = torch.empty(shape, dtype=torch.float32, device=centres.device)
    tile = configs.centre_tile(width, centres.stride(1) == 1)
    centre_distances_kernel[(configs.cdiv(chunk.centres, tile.rows),)](
        centres, norms, found, *centres.stride(), APART, chunk.first * chunk.per_class, chunk.centres,
        chunk.per_class, D=width, BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip
    return found


def spreads(centres: Tensor, norms: Tensor, chunk: Chunk) -> Tensor:
    """Sums [n], float32, of the distances between the centres of each class of a chunk.

    Args:
        centres: [C K, D] as they are stored, of any strides and floating dtype.
        norms: [C K], float32: their lengths.
        chunk: n classes.
    """
    return _distances(centres, norms, chunk).tril(-1).sum(dim=(1, 2))


def add_spread_gradients(out: Tensor, grads: Tensor, centres: Tensor, norms: Tensor, chunk: Chunk) -> None:
    """Adds to ``out`` [n K, D], float32, packed, what the spreads of a chunk give its unit centres.

    The part of a gradient that lies along its centre is another, which normalisation takes away.

    Args:
        out: gradients of packed centres.
        grads: [n], float32: of the spreads.
        centres: as for :func:`spreads`, like the rest.
    """
    weights = grads[:, None, None] / _distances(centres, norms, chunk)
    weights.diagonal(dim1=1, dim2=2).zero_()
    width = centres.shape[1]
    tile = configs.centre_tile(width, centres.stride(1) == 1)
    spread_gradients_kernel[(configs.cdiv(chunk.centres, tile.rows),)](
        centres, norms, weights, out, *centres.stride(), *chunk.arguments(),
        D=width, BM=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip
