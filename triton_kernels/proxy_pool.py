"""Device functions of the softmax over the centres of a class, one centre after the other."""

from __future__ import annotations

import triton
import triton.language as tl

# Below any similarity, and finite: it is subtracted.
BELOW_ALL = tl.constexpr(-1e38)


@triton.jit
def empty_pool(BM: tl.constexpr, BN: tl.constexpr):
    # [BM, BN] each, of the centres so far: the largest similarity m, the sums of e = exp((s - m) / gamma) and
    # of e (s - m)
    b_most = tl.full([BM, BN], BELOW_ALL, tl.float32)
    return b_most, tl.zeros([BM, BN], tl.float32), tl.zeros([BM, BN], tl.float32)


@triton.jit
def add_to_pool(b_s, b_most, b_mass, b_lag, sharpness):
    # sharpness = log2(e) / gamma; of the two exponents, that of s and that of the change of m, one is 0
    b_apart = b_s - b_most
    b_e = tl.exp2(-tl.abs(b_apart) * sharpness)
    m = b_apart > 0
    b_lag = tl.where(m, (b_lag - b_mass * b_apart) * b_e, b_lag + b_e * b_apart)
    b_mass = tl.where(m, b_mass * b_e + 1.0, b_mass + b_e)
    return tl.where(m, b_s, b_most), b_mass, b_lag
