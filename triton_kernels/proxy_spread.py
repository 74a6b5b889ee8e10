"""Distances between the centres of each class, summed, and their gradients by the unit centres.

Distances are lengths of differences, all in float32: 2 - 2 <u, v> would lose the digits of centres that have
almost merged.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.rules.proxy import APART as APART_VALUE
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.proxy_centres import Chunk, load_centres, packed_row
from fastdml.triton_kernels.units import SMALLEST_NORM

APART = tl.constexpr(APART_VALUE)


@triton.jit
def shortfall(b_norm):
    # what the squared length of a unit centre lacks of 1: something where the centre was too short alone
    b_length = b_norm / SMALLEST_NORM
    return tl.where(b_norm < SMALLEST_NORM, 1.0 - b_length * b_length, 0.0)


@triton.jit
def unit_slab(p_row, b_norm, m_row, i_d, stride_depth, D: tl.constexpr, BK: tl.constexpr):
    # [rows, BK]
    b_length = tl.where(b_norm < SMALLEST_NORM, SMALLEST_NORM, b_norm)
    return load_centres(p_row, m_row, i_d, stride_depth, D, BK) / b_length[:, None]


@triton.jit
def distances(
    p_rows, b_norm, m_rows, p_one, b_one, stride_depth, D: tl.constexpr, KP: tl.constexpr, BK: tl.constexpr
):
    # [KP]: sqrt(2 + 1e-5 - 2 <u, v>) of all centres u of a class and one of them
    m_one = tl.full([1], True, tl.int1)
    b_squares = tl.zeros([KP], tl.float32)
    for i_d in range(0, D, BK):
        b_apart = unit_slab(p_rows, b_norm, m_rows, i_d, stride_depth, D, BK)
        b_apart -= unit_slab(p_one, b_one, m_one, i_d, stride_depth, D, BK)
        b_squares += tl.sum(b_apart * b_apart, 1)
    return tl.sqrt(b_squares + shortfall(b_norm) + shortfall(b_one) + APART)


@triton.jit
def spread_kernel(
    p_w, p_norm, p_spread, stride_centre, stride_depth,
    K: tl.constexpr, D: tl.constexpr, KP: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # one class: p_spread [C]
    i_first = tl.program_id(0).to(tl.int64) * K
    o_k = tl.arange(0, KP)
    m_k = o_k < K
    p_rows = p_w + (i_first + o_k) * stride_centre
    b_norm = tl.load(p_norm + i_first + o_k, mask=m_k, other=1.0)
    b_sum = tl.zeros([KP], tl.float32)
    for i_k in range(1, K):
        o_one = i_first + i_k + tl.zeros([1], tl.int32)
        b_root = distances(
            p_rows, b_norm, m_k, p_w + o_one * stride_centre, tl.load(p_norm + o_one), stride_depth, D, KP, BK
        )
        b_sum += tl.where(o_k < i_k, b_root, 0.0)
    tl.store(p_spread + tl.program_id(0), tl.sum(b_sum, 0))


@triton.jit(do_not_specialize=["first", "n_classes", "n_block"])
def spread_gradients_kernel(
    p_w, p_norm, p_grad, p_out, stride_centre, stride_depth, first, n_classes, n_block,
    K: tl.constexpr, D: tl.constexpr, KP: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # one class of the chunk from class ``first`` on: adds to the packed gradients p_out [.., D]
    i_class = tl.program_id(0)
    i_first = (first + i_class).to(tl.int64) * K
    o_k = tl.arange(0, KP)
    m_k = o_k < K
    m_one = tl.full([1], True, tl.int1)
    p_rows = p_w + (i_first + o_k) * stride_centre
    b_norm = tl.load(p_norm + i_first + o_k, mask=m_k, other=1.0)
    b_grad = tl.load(p_grad + first + i_class)
    for i_k in range(K):
        o_one = i_first + i_k + tl.zeros([1], tl.int32)
        p_one = p_w + o_one * stride_centre
        b_one = tl.load(p_norm + o_one)
        b_root = distances(p_rows, b_norm, m_k, p_one, b_one, stride_depth, D, KP, BK)
        b_w = tl.where(m_k & (o_k != i_k), b_grad / b_root, 0.0)
        # what lies along the centre itself is lost in its normalisation, so a difference serves; but not
        # where a centre was too short for it
        b_keep = tl.where(b_one < SMALLEST_NORM, 0.0, 1.0)[:, None]
        o_row = packed_row(i_class * K + i_k + tl.zeros([1], tl.int32), n_classes, n_block, K)
        for i_d in range(0, D, BK):
            o_d = i_d + tl.arange(0, BK)
            b_u = unit_slab(p_rows, b_norm, m_k, i_d, stride_depth, D, BK)
            b_v = unit_slab(p_one, b_one, m_one, i_d, stride_depth, D, BK)
            b_add = tl.sum(b_w[:, None] * (b_keep * b_v - b_u), 0)[None, :]
            p = p_out + o_row[:, None] * D + o_d[None, :]
            m = (o_d < D)[None, :]
            tl.store(p, tl.load(p, mask=m, other=0.0) + b_add, mask=m)


def spreads(centres: Tensor, norms: Tensor, per_class: int) -> Tensor:
    """Sums [C], float32, of the distances between the centres of each class.

    Args:
        centres: [C K, D] as they are stored, of any strides and floating dtype.
        norms: [C K], float32: their lengths.
        per_class: K.
    """
    classes, width = len(norms) // per_class, centres.shape[1]
    found = torch.empty(classes, dtype=torch.float32, device=centres.device)
    tile = configs.spread_tile(width, per_class)
    spread_kernel[(classes,)](
        centres, norms, found, *centres.stride(), K=per_class, D=width, KP=tile.rows, BK=tile.depth,
        **tile.options(),
    )  # fmt: skip
    return found


def add_spread_gradients(out: Tensor, grads: Tensor, centres: Tensor, norms: Tensor, chunk: Chunk) -> None:
    """Adds to ``out`` [places K, D], float32, packed, what the spreads of a chunk give its unit centres.

    The part of a gradient that lies along its centre is another, which normalisation takes away.

    Args:
        out: gradients of packed centres.
        grads: [C], float32: of the spreads.
        centres: as for :func:`spreads`, like ``norms``.
        chunk: its classes.
    """
    width = centres.shape[1]
    tile = configs.spread_tile(width, chunk.per_class)
    spread_gradients_kernel[(chunk.classes,)](
        centres, norms, grads, out, *centres.stride(), chunk.first, chunk.places, chunk.block,
        K=chunk.per_class, D=width, KP=tile.rows, BK=tile.depth, **tile.options(),
    )  # fmt: skip
