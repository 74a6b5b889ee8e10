"""Device functions that the pair kernels share: tiles of similarities, and which tiles hold positives.

Rows and columns are sorted by label, so the positives of a row block lie in the column tiles [lo, hi). A
sweep visits the other full tiles first, without a mask, then [lo, hi) and a ragged last tile, with masks.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The interpreter multiplies bfloat16 by its bits, and sums products of rows and columns in another order than
# those of columns and rows, as devices do not; in float64 both are as good as exact.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

# One number a row, often part of a longer tensor: where it begins, and so how it is aligned, depends on the
# number of rows. No kernel is to be compiled anew for that.
NUMBERS_OF_ROWS = [
    "p_label", "p_other", "p_own", "p_order", "p_span", "p_start", "p_end", "p_given", "p_norm", "p_square",
    "p_x_square", "p_r_square",
]  # fmt: skip


@triton.jit
def product(b_left, b_right, b_acc, PRECISION: tl.constexpr):
    # b_left @ b_right + b_acc in fp32
    if INTERPRETED:
        b = tl.dot(b_left.to(tl.float64), b_right.to(tl.float64), out_dtype=tl.float64).to(tl.float32)
        return b if b_acc is None else b_acc + b
    return tl.dot(b_left, b_right, b_acc, input_precision=PRECISION)


@triton.jit
def stored(b, dtype: tl.constexpr):
    # [..] in the dtype that memory and products hold it in, rounded to nearest
    if INTERPRETED and dtype == tl.bfloat16:
        # the interpreter would cut the lower bits off
        b_bits = b.to(tl.uint32, bitcast=True)
        b_round = (b_bits + 0x7FFF + ((b_bits >> 16) & 1)).to(tl.float32, bitcast=True)
        b = tl.where(b == b, b_round, b)
    return b.to(dtype)


@triton.jit
def positive_tiles(p_start, p_end, i_row, n_rows, BM: tl.constexpr, BN: tl.constexpr):
    # starts and ends never decrease, so the first row's start and the last row's end bound the block
    i_last = tl.minimum(i_row + BM, n_rows) - 1
    lo = tl.load(p_start + i_row) // BN
    hi = tl.cdiv(tl.load(p_end + i_last), BN)
    return lo, hi


@triton.jit
def plain_count(lo, hi, n_columns, BN: tl.constexpr):
    # full tiles outside [lo, hi)
    n_full = n_columns // BN
    return tl.minimum(lo, n_full) + tl.maximum(n_full - hi, 0)


@triton.jit
def plain_tile(i, lo, hi):
    return tl.where(i < lo, i, i + hi - lo)


@triton.jit
def masked_tile(i, lo, hi, n_columns, BN: tl.constexpr):
    return tl.where(i < hi - lo, lo + i, n_columns // BN)


@triton.jit
def share(n_tiles):
    # the tiles of this program, of all that the programs of its row block visit
    i_split = tl.program_id(1)
    n_splits = tl.num_programs(1)
    return i_split * n_tiles // n_splits, (i_split + 1) * n_tiles // n_splits


@triton.jit
def load_slab(p, o_row, i_k, D: tl.constexpr, BK: tl.constexpr):
    # [rows, BK]: columns i_k.. of the rows o_row, which lie within the matrix; zeros beyond D
    o_k = i_k + tl.arange(0, BK)
    p_slab = p + o_row.to(tl.int64)[:, None] * D + o_k[None, :]
    return tl.load(p_slab) if D % BK == 0 else tl.load(p_slab, mask=(o_k < D)[None, :], other=0.0)


@triton.jit
def load_tile(p_tile, i_k, D: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    # [BN, BK]: columns i_k.. of BN consecutive rows that all exist
    o_k = tl.arange(0, BK)
    p_slab = p_tile + i_k + (tl.arange(0, BN)[:, None] * D + o_k[None, :])
    return tl.load(p_slab) if D % BK == 0 else tl.load(p_slab, mask=(i_k + o_k < D)[None, :], other=0.0)


@triton.jit
def load_resident(p_x, o_m, D: tl.constexpr, BK: tl.constexpr):
    # the row block's own [BM, D] where one slab holds it; unused (and never loaded) where it takes several
    return load_slab(p_x, o_m, 0, D, BK) if BK >= D else 0.0


@triton.jit
def similarities(
    b_x, p_x, p_r, o_m, o_n, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # [BM, BN] in fp32, for any rows o_m and columns o_n
    if BK >= D:
        b_r = load_slab(p_r, o_n, 0, D, BK)
        b_s = product(b_x, tl.trans(b_r), None, PRECISION)
    else:
        b_s = tl.zeros([BM, BN], tl.float32)
        for i_k in range(0, D, BK):
            b_r = load_slab(p_r, o_n, i_k, D, BK)
            b_s = product(load_slab(p_x, o_m, i_k, D, BK), tl.trans(b_r), b_s, PRECISION)
    return b_s


@triton.jit
def plain_similarities(
    b_x, p_x, p_tile, o_m, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # [BM, BN] in fp32, for the BN rows from p_tile on, which all exist
    if BK >= D:
        b_s = product(b_x, tl.trans(load_tile(p_tile, 0, D, BN, BK)), None, PRECISION)
    else:
        b_s = tl.zeros([BM, BN], tl.float32)
        for i_k in range(0, D, BK):
            b_r = load_tile(p_tile, i_k, D, BN, BK)
            b_s = product(load_slab(p_x, o_m, i_k, D, BK), tl.trans(b_r), b_s, PRECISION)
    return b_s


@triton.jit
def same_label(o_n, b_start, b_end):
    return (o_n[None, :] >= b_start[:, None]) & (o_n[None, :] < b_end[:, None])


@triton.jit
def positive_mask(o_n, b_start, b_end, b_own):
    # [BM, BN]: same label, and not the anchor itself
    return same_label(o_n, b_start, b_end) & (o_n[None, :] != b_own[:, None])


@triton.jit
def negative_mask(o_n, b_start, b_end, n_columns):
    # [BM, BN]: another label, and a column that exists
    return ~same_label(o_n, b_start, b_end) & (o_n < n_columns)[None, :]
