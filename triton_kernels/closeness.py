"""Closeness of pairs from the inner products of their unit rows, as fastdml/rules/closeness.py has it."""

from __future__ import annotations

import triton
import triton.language as tl

INNER = tl.constexpr(0)
EUCLIDEAN = tl.constexpr(1)
LEAST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def load_squares(p_square, o, KIND: tl.constexpr):
    # squared lengths of the rows o; unused (and never loaded) where the inner product is the closeness
    return 0.0 if KIND == INNER else tl.load(p_square + o)


@triton.jit
def closeness_and_slope(b_s, b_q, o_q, KIND: tl.constexpr):
    # [BM, BN] twice: closeness, and its derivative by the inner product; b_q [BM], o_q [BN] squared lengths
    if KIND == INNER:
        b_c = b_s
        b_slope = 1.0
    else:
        b_square = tl.maximum(b_q[:, None] + o_q[None, :] - 2.0 * b_s, 0.0)
        if KIND == EUCLIDEAN:
            # devices take the root of a number below the least normal one for that of 0
            b_slope = tl.where(b_square > LEAST_NORMAL, tl.rsqrt(b_square), 0.0)
            b_c = -b_square * b_slope
        else:
            b_slope = tl.where(b_square > 0.0, 2.0, 0.0)
            b_c = -b_square
    return b_c, b_slope
