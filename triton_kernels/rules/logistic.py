"""``log(1 + e^x)`` and its derivative, which softplus and info_nce share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log_one_plus(u):
    # log(1 + u) = 2 artanh(u / (2 + u)) for 0 <= u <= 1 by a polynomial, whose relative error is 5e-9; the
    # log of a GPU has an absolute one of 2**-22 near 1
    z = u / (2.0 + u)
    t = z * z
    series = (((0.14005994 * t + 0.14000903) * t + 0.20010764) * t + 0.33333208) * t
    return 2.0 * (z + z * series)


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + log_one_plus(tl.exp(-tl.abs(x)))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))
