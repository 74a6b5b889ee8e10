"""The exponentials of the circle loss, whose factors in brackets are constants to the gradient.

``e^{gamma [c + m]_+ (c - m) - shift}`` for negatives, ``e^{-gamma [1 + m - c]_+ (c - 1 + m) - row}`` for
positives. Constants: gamma, m, shift of the negatives, spread (fastdml/rules/terms.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdml.triton_kernels.rules.base import PairTermsKernels

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def positive_factor(c, p):
    return tl.maximum(1.0 + p[1] - c, 0.0) * -p[0]


@triton.jit
def positive_exponent(c, p):
    return positive_factor(c, p) * (c - (1.0 - p[1]))


@triton.jit
def positive_term(c, row, p):
    # the minimum keeps the product from being fused with the subtraction: exactly e^0 for the least close one
    return tl.exp(tl.minimum(positive_exponent(c, p), row) - row)


@triton.jit
def negative_term(c, p):
    # in base two, which saves a product
    factor = tl.maximum(c + p[1], 0.0) * (p[0] * LOG2E)
    return tl.exp2(factor * (c - p[1]) - p[2] * LOG2E)


@triton.jit
def negative_terms(c, row, p):
    return negative_term(c, p), tl.zeros_like(c)


@triton.jit
def negative_weight(c, row, p):
    return tl.maximum(c + p[1], 0.0) * p[0] * negative_term(c, p)


@triton.jit
def positive_row(row, least, most, negative_sum, p):
    # the largest exponent of the positives, which is that of the least close one
    c = tl.minimum(tl.maximum(least, -1.0), 1.0)
    return positive_exponent(c, p)


@triton.jit
def positive_terms(c, row, p):
    return positive_term(c, row, p), tl.zeros_like(c)


@triton.jit
def positive_weights(c, row, p):
    return positive_factor(c, p) * positive_term(c, row, p), tl.zeros_like(c)


KERNELS = PairTermsKernels(
    negative_terms,
    negative_weight,
    positive_row,
    positive_terms,
    positive_weights,
    negative_second=False,
    positive_second=False,
    light=True,
)
