"""Device functions that turn a tile of similarities into the weights of its pairs.

A pair weighs what its row's anchor gives it (OWN), what its column's anchor gives it (OTHER), or both: for
self-pairs S is symmetric, and dL/dx_i = sum_j (w_i(S_ij) + w_j(S_ij)) x_j.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def negative_scales(b_s, b_t0, b_c0, o_t0, o_c0, OWN: tl.constexpr, OTHER: tl.constexpr, MINES: tl.constexpr):
    # [BM, BN]: what the weight of each pair is multiplied with; b_ of the rows [BM], o_ of the columns [BN]
    if OWN:
        b_c = tl.broadcast_to(b_c0[:, None], b_s.shape)
        if MINES:
            b_c = tl.where(b_s > b_t0[:, None], b_c, 0.0)
    if OTHER:
        o_c = tl.broadcast_to(o_c0[None, :], b_s.shape)
        if MINES:
            o_c = tl.where(b_s > o_t0[None, :], o_c, 0.0)
    if OWN and OTHER:
        b_c = b_c + o_c
    elif OTHER:
        b_c = o_c
    return b_c


@triton.jit
def negative_weights(
    b_s, b_t0, b_c0, o_t0, o_c0, p, NEGATIVE_WEIGHT: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    MINES: tl.constexpr,
):  # fmt: skip
    return NEGATIVE_WEIGHT(b_s, p) * negative_scales(b_s, b_t0, b_c0, o_t0, o_c0, OWN, OTHER, MINES)


@triton.jit
def one_sided_positives(b_s, t1, c1, p, POSITIVE_KEPT: tl.constexpr, POSITIVE_WEIGHT: tl.constexpr):
    return tl.where(POSITIVE_KEPT(b_s, t1, p), POSITIVE_WEIGHT(b_s, t1, p) * c1, 0.0)


@triton.jit
def positive_weights(
    b_s, b_t1, b_c1, o_t1, o_c1, p, IS_POSITIVE: tl.constexpr, POSITIVE_KEPT: tl.constexpr,
    POSITIVE_WEIGHT: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    b_w = tl.zeros_like(b_s)
    if OWN:
        b_w += one_sided_positives(b_s, b_t1[:, None], b_c1[:, None], p, POSITIVE_KEPT, POSITIVE_WEIGHT)
    if OTHER:
        b_w += one_sided_positives(b_s, o_t1[None, :], o_c1[None, :], p, POSITIVE_KEPT, POSITIVE_WEIGHT)
    return tl.where(IS_POSITIVE(b_s, p), b_w, 0.0)


@triton.jit
def masked_weights(b_negative, b_positive, o_m, o_n, b_start, b_end, n_columns, SELF: tl.constexpr):
    # the weights of a tile that holds positives, or columns that do not exist
    m_same = (o_n[None, :] >= b_start[:, None]) & (o_n[None, :] < b_end[:, None])
    b_w = tl.where(m_same, b_positive, b_negative)
    m = (o_n < n_columns)[None, :]
    if SELF:
        m = m & (o_m[:, None] != o_n[None, :])
    return tl.where(m, b_w, 0.0)
