"""What the pair kernels ask of a loss: its terms as device functions."""

from __future__ import annotations

from typing import Any, NamedTuple


class PairTermsKernels(NamedTuple):
    """The terms of :class:`fastdml.rules.PairTerms` as ``@triton.jit`` functions.

    ``c`` [BM, BN] float32 is the closeness of pairs, ``row`` one number of each anchor, broadcastable against
    it, and ``p`` the constants of the terms, a tuple of float32 in the order of ``PairTerms.constants()``.
    All but ``positive_row`` are also evaluated at pairs that do not count, whose values are dropped, and at
    closeness beyond its bounds by rounding. A new loss gives the five functions; the flags only save work.
    """

    negative_terms: Any
    """(c, row, p): what a negative adds to ``negative_sum`` and to ``negative_second``."""
    negative_weight: Any
    """(c, row, p): derivative of the first by ``c``."""
    positive_row: Any
    """(row, least, most, negative_sum, p), each [BM]: the row of the positives' terms. ``least`` is the
    closeness of the least close positive, ``most`` of the closest negative, infinite where there is none."""
    positive_terms: Any
    """(c, row, p): what a positive adds to ``positive_sum`` and to ``positive_second``."""
    positive_weights: Any
    """(c, row, p): derivatives of both by ``c``."""
    reads_least: bool = True
    """Whether ``positive_row`` reads ``least``, which takes one more sweep over the positives; else inf."""
    negative_second: bool = True
    """Whether negatives have a second term; it is not summed else."""
    positive_second: bool = True
    """Whether the second term of the positives has a derivative; it is taken for 0 else."""
    light: bool = False
    """Whether the terms take so few registers that wide tiles fit beside them."""
