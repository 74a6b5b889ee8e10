"""Device functions that turn a tile of closeness into the weights of its pairs.

A pair weighs what its row's anchor gives it (OWN), what its column's anchor gives it (OTHER), or both: for
self-pairs S is symmetric, and dL/dx_i = sum_j (w_i(S_ij) + w_j(S_ij)) x_j.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdml.triton_kernels.tiles import same_label


@triton.jit
def load_negative_numbers(p_row, p_grad, o, stride, GIVES: tl.constexpr):
    # threshold, row of the terms and gradient of the sum of every anchor; unused where this side is no anchor
    if GIVES:
        numbers = tl.load(p_row + o), tl.load(p_row + 2 * stride + o), tl.load(p_grad + o)
    else:
        numbers = 0.0, 0.0, 0.0
    return numbers


@triton.jit
def load_positive_numbers(p_row, p_grad, o, stride, GIVES: tl.constexpr):
    # threshold, row of the terms and gradients of both sums
    if GIVES:
        p_at = p_row + stride + o
        p_first = p_grad + stride + o
        numbers = tl.load(p_at), tl.load(p_at + 2 * stride), tl.load(p_first), tl.load(p_first + stride)
    else:
        numbers = 0.0, 0.0, 0.0, 0.0
    return numbers


@triton.jit
def one_sided_negatives(b_c, threshold, row, grad, p, NEGATIVE_WEIGHT: tl.constexpr, SELECTS: tl.constexpr):
    scale = tl.broadcast_to(grad, b_c.shape)
    if SELECTS:
        scale = tl.where(b_c > threshold, scale, 0.0)
    return NEGATIVE_WEIGHT(b_c, row, p) * scale


@triton.jit
def negative_weights(
    b_c, b_numbers, o_numbers, p, NEGATIVE_WEIGHT: tl.constexpr, SELECTS: tl.constexpr, OWN: tl.constexpr,
    OTHER: tl.constexpr,
):  # fmt: skip
    # [BM, BN]; numbers of the rows [BM] and of the columns [BN]
    if OWN:
        t, row, grad = b_numbers
        b_w = one_sided_negatives(b_c, t[:, None], row[:, None], grad[:, None], p, NEGATIVE_WEIGHT, SELECTS)
    if OTHER:
        t, row, grad = o_numbers
        o_w = one_sided_negatives(b_c, t[None, :], row[None, :], grad[None, :], p, NEGATIVE_WEIGHT, SELECTS)
    if OWN and OTHER:
        b_w = b_w + o_w
    elif OTHER:
        b_w = o_w
    return b_w


@triton.jit
def one_sided_positives(
    b_c, threshold, row, grad, second_grad, p, limits, POSITIVE_WEIGHTS: tl.constexpr, SELECTS: tl.constexpr,
    SECOND: tl.constexpr,
):  # fmt: skip
    b_first, b_second = POSITIVE_WEIGHTS(b_c, row, p)
    b_w = b_first * grad
    if SECOND:
        b_w += b_second * second_grad
    if SELECTS:
        b_w = tl.where((b_c < limits[2]) & (b_c < threshold), b_w, 0.0)
    return b_w


@triton.jit
def positive_weights(
    b_c, b_numbers, o_numbers, p, limits, POSITIVE_WEIGHTS: tl.constexpr, SELECTS: tl.constexpr,
    SECOND: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    b_w = tl.zeros_like(b_c)
    if OWN:
        t, row, first, second = b_numbers
        b_w += one_sided_positives(
            b_c, t[:, None], row[:, None], first[:, None], second[:, None], p, limits,
            POSITIVE_WEIGHTS, SELECTS, SECOND,
        )  # fmt: skip
    if OTHER:
        t, row, first, second = o_numbers
        b_w += one_sided_positives(
            b_c, t[None, :], row[None, :], first[None, :], second[None, :], p, limits,
            POSITIVE_WEIGHTS, SELECTS, SECOND,
        )  # fmt: skip
    return b_w


@triton.jit
def masked_weights(b_negative, b_positive, o_n, b_start, b_end, m_own, n_columns):
    # the weights of a tile that holds positives, or columns that do not exist; m_own: the anchor itself
    b_w = tl.where(same_label(o_n, b_start, b_end), b_positive, b_negative)
    return tl.where((o_n < n_columns)[None, :] & ~m_own, b_w, 0.0)
