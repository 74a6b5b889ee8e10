"""NT-Xent and N-pairs.

``e^{slope c - shift}`` for negatives; for positives ``log(1 + e^{row - slope c})`` and its derivative, row
the log-sum-exp of their anchor's negatives. Constants: scale, offset, spread (fastdml/rules/terms.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdml.triton_kernels.rules.base import PairTermsKernels
from fastdml.triton_kernels.rules.exponential import LN2
from fastdml.triton_kernels.rules.logistic import sigmoid, softplus


@triton.jit
def negative_terms(c, row, p):
    return tl.exp2(c * p[0] - p[1]), tl.zeros_like(c)


@triton.jit
def negative_weight(c, row, p):
    return tl.exp2(c * p[0] - p[1]) * (p[0] * LN2)


@triton.jit
def positive_row(row, least, most, negative_sum, p):
    # -inf, which the positives take, where there is no negative
    return tl.log(negative_sum) + p[1] * LN2


@triton.jit
def positive_terms(c, row, p):
    v = row - c * (p[0] * LN2)
    return softplus(v), sigmoid(v)


@triton.jit
def positive_weights(c, row, p):
    return sigmoid(row - c * (p[0] * LN2)) * (p[0] * -LN2), tl.zeros_like(c)


KERNELS = PairTermsKernels(
    negative_terms,
    negative_weight,
    positive_row,
    positive_terms,
    positive_weights,
    reads_least=False,
    negative_second=False,
    positive_second=False,
    light=True,
)
