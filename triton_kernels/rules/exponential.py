"""``e^{slope c + bias - shift}`` on either side: Multi-Similarity, both lifted structures, SupCon.

Constants: negative scale, offset, shift, positive scale, offset, shift, spread (fastdml/rules/terms.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdml.triton_kernels.rules.base import PairTermsKernels

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def negative_terms(c, row, p):
    return tl.exp2(c * p[0] - p[1]), tl.zeros_like(c)


@triton.jit
def negative_weight(c, row, p):
    return tl.exp2(c * p[0] - p[1]) * (p[0] * LN2)


@triton.jit
def positive_row(row, least, most, negative_sum, p):
    return row


@triton.jit
def positive_terms(c, row, p):
    return tl.exp2(c * p[3] - p[4]), c


@triton.jit
def positive_weights(c, row, p):
    return tl.exp2(c * p[3] - p[4]) * (p[3] * LN2), tl.full(c.shape, 1.0, tl.float32)


KERNELS = PairTermsKernels(
    negative_terms,
    negative_weight,
    positive_row,
    positive_terms,
    positive_weights,
    reads_least=False,
    negative_second=False,
    light=True,
)
