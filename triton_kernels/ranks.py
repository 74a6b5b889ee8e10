"""Ranks for retrieval: how many negatives of a query reach the similarity of each of its positives.

A vendor product makes the similarities of a block of queries and gallery rows; the kernel reads them while
they are in the L2. Counts are integers, which add up to the same in any order: here alone they do so
atomically.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.tiles import NUMBERS_OF_ROWS

# Beyond so many thresholds a query, looking each similarity up among them takes fewer instructions.
MOST_THRESHOLDS = 128
# Thresholds at a time, columns at a time, and columns of a program.
GROUP, COLUMNS, SPAN, WARPS = 8, 256, 4096, 4


@triton.jit(
    do_not_specialize=["first", "n_columns", "n_thresholds"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS
)
def count_reached_kernel(
    p_s, p_threshold, p_count, p_start, p_end, p_own, first, n_columns, n_thresholds,
    BK: tl.constexpr, BN: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    # one query: adds to p_count [n_queries, n_thresholds] what of its columns, gallery rows from `first` on,
    # is a negative not below the threshold
    i_row = tl.program_id(0).to(tl.int64)
    left = tl.program_id(1) * SPAN
    right = tl.minimum(left + SPAN, n_columns)
    start, end, own = tl.load(p_start + i_row), tl.load(p_end + i_row), tl.load(p_own + i_row)
    p_row = p_s + i_row * n_columns
    for i_k in range(0, n_thresholds, BK):
        o_k = i_k + tl.arange(0, BK)
        m_k = o_k < n_thresholds
        b_t = tl.load(p_threshold + i_row * n_thresholds + o_k, mask=m_k, other=float("inf"))
        b_count = tl.zeros([BK, BN], tl.int32)
        for i_n in range(left, right, BN):
            o_n = i_n + tl.arange(0, BN)
            b_s = tl.load(p_row + o_n, mask=o_n < right, other=-float("inf"))
            o_c = first + o_n
            m = (o_n < right) & ((o_c < start) | (o_c >= end)) & (o_c != own)
            # NaN reaches every threshold: a query that nothing is known of is ranked last
            b_below = b_s[None, :] < b_t[:, None]
            b_count += tl.where(b_below, 0, m[None, :].to(tl.int32))
        tl.atomic_add(p_count + i_row * n_thresholds + o_k, tl.sum(b_count, 1), mask=m_k, sem="relaxed")


def count_reached(similarity: Tensor, thresholds: Tensor, counts: Tensor, spans: Tensor, first: int) -> None:
    """Adds to ``counts`` how many negatives among some gallery rows are not below each threshold.

    Args:
        similarity: [B, C], float32 or float64, of B queries with the gallery rows from ``first`` on.
        thresholds: [B, P], of the same dtype.
        counts: [B, P], int32.
        spans: [3, B], int32: where the gallery rows of the query's label start and end, and which is the
            query itself (-1: none); these are no negatives.
        first: the gallery row of the first column.
    """
    queries, columns = similarity.shape
    start, end, own = spans
    count_reached_kernel[(queries, configs.cdiv(columns, SPAN))](
        similarity, thresholds, counts, start, end, own, first, columns, thresholds.shape[1],
        BK=GROUP, BN=COLUMNS, SPAN=SPAN, num_warps=WARPS,
    )  # fmt: skip
