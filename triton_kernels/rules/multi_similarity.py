"""Multi-Similarity (CVPR 2019, arXiv 1904.06627) as the pair kernels read it.

Constants, in the order of ``MultiSimilarity.constants()`` in fastdml/rules/multi_similarity.py: negative
scale, offset, shift, 1/beta, positive scale, offset, shift, 1/alpha, mining, epsilon, duplicate. Exponents
are in base two: ``e^{b(S-l) - shift} = 2^{S * scale - offset}``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdml.triton_kernels.rules.base import PairRuleKernels


@triton.jit
def negative_threshold(least_positive, p):
    return tl.where(p[8] != 0.0, least_positive - p[9], -float("inf"))


@triton.jit
def positive_threshold(most_negative, negative_sum, p):
    return tl.where(p[8] != 0.0, most_negative + p[9], float("inf"))


@triton.jit
def is_positive(s, p):
    return s < p[10]


@triton.jit
def positive_kept(s, threshold, p):
    return s < threshold


@triton.jit
def negative_exponent(s, p):
    return s * p[0] - p[1]


@triton.jit
def positive_exponent(s, p):
    return s * p[4] - p[5]


@triton.jit
def negative_term(s, p):
    return tl.exp2(negative_exponent(s, p))


@triton.jit
def positive_term(s, threshold, p):
    return tl.exp2(positive_exponent(s, p))


@triton.jit
def positive_terms(s, threshold, p):
    return tl.exp2(positive_exponent(s, p)), tl.zeros_like(s)


@triton.jit
def log_one_plus(sum, shift):
    # log(1 + x) = log(u) x / (u - 1) with u = 1 + x rounded: exact to the last bits where x is small
    one_plus = 1.0 + sum
    rounded = one_plus - 1.0
    correction = sum / tl.where(rounded == 0.0, 1.0, rounded)
    unshifted = tl.where(rounded == 0.0, sum, tl.log(one_plus) * correction)
    return tl.where(shift == 0.0, unshifted, tl.log(tl.exp(-shift) + sum) + shift)


@triton.jit
def negative_scale_of_row(sum, p):
    return 1.0 / (tl.exp(-p[2]) + sum)


@triton.jit
def positive_scale_of_row(sum, p):
    return -1.0 / (tl.exp(-p[6]) + sum)


@triton.jit
def finish(
    negative_threshold, positive_threshold, negative_sum, positive_sum, second_sum, negatives, positives, p
):
    loss = p[3] * log_one_plus(negative_sum, p[2]) + p[7] * log_one_plus(positive_sum, p[6])
    negative_scale = negative_scale_of_row(negative_sum, p)
    positive_scale = positive_scale_of_row(positive_sum, p)
    return loss, negative_threshold, positive_threshold, negative_scale, positive_scale


KERNELS = PairRuleKernels(
    negative_threshold=negative_threshold,
    negative_term=negative_term,
    positive_threshold=positive_threshold,
    is_positive=is_positive,
    positive_kept=positive_kept,
    positive_terms=positive_terms,
    finish=finish,
    negative_weight=negative_term,
    positive_weight=positive_term,
    mines=lambda constants: constants[8] != 0.0,
)
