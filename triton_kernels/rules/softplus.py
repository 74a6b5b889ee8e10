"""``log(1 + e^{slope c + bias})`` on either side: binomial deviance.

Constants: slope and bias of the negatives, slope and bias of the positives (fastdml/rules/terms.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdml.triton_kernels.rules.base import PairTermsKernels
from fastdml.triton_kernels.rules.logistic import sigmoid, softplus


@triton.jit
def negative_terms(c, row, p):
    return softplus(c * p[0] + p[1]), tl.zeros_like(c)


@triton.jit
def negative_weight(c, row, p):
    return sigmoid(c * p[0] + p[1]) * p[0]


@triton.jit
def positive_row(row, least, most, negative_sum, p):
    return row


@triton.jit
def positive_terms(c, row, p):
    return softplus(c * p[2] + p[3]), tl.zeros_like(c)


@triton.jit
def positive_weights(c, row, p):
    return sigmoid(c * p[2] + p[3]) * p[2], tl.zeros_like(c)


KERNELS = PairTermsKernels(
    negative_terms,
    negative_weight,
    positive_row,
    positive_terms,
    positive_weights,
    reads_least=False,
    negative_second=False,
    positive_second=False,
)
