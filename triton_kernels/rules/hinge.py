"""Hinges, or half their squares: the contrastive and the margin loss.

``v = [c + bias - row]_+`` for negatives, ``[bias - c + row]_+`` for positives; summed and counted where v
lies strictly between low and high. Constants: bias of the negatives, of the positives, low, high, 1 if
squared (fastdml/rules/terms.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdml.triton_kernels.rules.base import PairTermsKernels


@triton.jit
def terms(v, p):
    v = tl.maximum(v, 0.0)
    m = (v > p[2]) & (v < p[3])
    return tl.where(m, v * ((1.0 - p[4]) + 0.5 * p[4] * v), 0.0), tl.where(m, 1.0, 0.0)


@triton.jit
def weight(v, p, sign):
    m = (v > 0.0) & (v > p[2]) & (v < p[3])
    return tl.where(m, tl.where(p[4] > 0, sign * v, sign), 0.0)


@triton.jit
def negative_terms(c, row, p):
    return terms(c + p[0] - row, p)


@triton.jit
def negative_weight(c, row, p):
    return weight(c + p[0] - row, p, 1.0)


@triton.jit
def positive_row(row, least, most, negative_sum, p):
    return row


@triton.jit
def positive_terms(c, row, p):
    return terms(p[1] - c + row, p)


@triton.jit
def positive_weights(c, row, p):
    return weight(p[1] - c + row, p, -1.0), tl.zeros_like(c)


KERNELS = PairTermsKernels(
    negative_terms,
    negative_weight,
    positive_row,
    positive_terms,
    positive_weights,
    reads_least=False,
    positive_second=False,
)
