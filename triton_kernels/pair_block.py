"""Backward of the pair engine, blocks: weights of an L2-sized block, then a vendor product with the rows.

For embeddings too wide for the row owner, and for float32. The block of weights stays in the cache between
the two, each pair of blocks is visited once, and memory is constant beyond the gradients.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.closeness import closeness_and_slope, load_squares
from fastdml.triton_kernels.pair_call import PairCall, Side
from fastdml.triton_kernels.tiles import NUMBERS_OF_ROWS, load_slab, product, same_label, stored
from fastdml.triton_kernels.weights import (
    load_negative_numbers,
    load_positive_numbers,
    negative_weights,
    positive_weights,
)

# Row tiles that programs of neighbouring ids share, so that both operands stay in the cache.
ROWS_PER_GROUP = tl.constexpr(8)
# Programs that share the columns of a row tile in which positives lie.
POSITIVE_PROGRAMS = 4
PLACES = ["n_rows", "n_columns", "i_row0", "i_column0", "n_block_rows", "n_block_columns"]


@triton.jit
def block_similarities(
    p_x, p_r, o_m, o_c, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # [BM, BN] in fp32: slabs of both sides, whatever D is
    b_s = tl.zeros([BM, BN], tl.float32)
    for i_k in range(0, D, BK):
        b_x = load_slab(p_x, o_m, i_k, D, BK)
        b_r = load_slab(p_r, o_c, i_k, D, BK)
        b_s = product(b_x, tl.trans(b_r), b_s, PRECISION)
    return b_s


@triton.jit(do_not_specialize=PLACES, do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def pair_weights_kernel(
    p_x, p_r, p_x_square, p_r_square, p_row, p_grad, p_weight, p,
    n_rows, n_columns, i_row0, i_column0, n_block_rows, n_block_columns, stride_weight,
    NEGATIVE_WEIGHT: tl.constexpr, SELECTS: tl.constexpr, SELF: tl.constexpr, KIND: tl.constexpr,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # p_weight [n_block_rows, n_block_columns], its rows stride_weight apart: rows from i_row0 on against
    # columns from i_column0 on, as if all pairs were negative
    n_tiles_m = tl.cdiv(n_block_rows, BM)
    n_tiles_n = tl.cdiv(n_block_columns, BN)
    i_group = tl.program_id(0) // (ROWS_PER_GROUP * n_tiles_n)
    i_in_group = tl.program_id(0) % (ROWS_PER_GROUP * n_tiles_n)
    n_group = tl.minimum(n_tiles_m - i_group * ROWS_PER_GROUP, ROWS_PER_GROUP)
    i_m = i_group * ROWS_PER_GROUP + i_in_group % n_group
    i_n = i_in_group // n_group

    o_i = i_m * BM + tl.arange(0, BM)
    o_j = i_n * BN + tl.arange(0, BN)
    o_m = tl.minimum(i_row0 + o_i, n_rows - 1)
    o_c = tl.minimum(i_column0 + o_j, n_columns - 1)
    b_s = block_similarities(p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
    b_q = load_squares(p_x_square, o_m, KIND)
    b_c, b_slope = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_c, KIND), KIND)
    stride = tl.cast(n_rows, tl.int64)
    b_negative = load_negative_numbers(p_row, p_grad, o_m, stride, True)
    o_negative = load_negative_numbers(p_row, p_grad, o_c, stride, SELF)
    b_w = negative_weights(b_c, b_negative, o_negative, p, NEGATIVE_WEIGHT, SELECTS, True, SELF) * b_slope
    p_out = p_weight + o_i.to(tl.int64)[:, None] * stride_weight + o_j[None, :]
    m_out = (o_i < n_block_rows)[:, None] & (o_j < n_block_columns)[None, :]
    tl.store(p_out, stored(b_w, p_weight.dtype.element_ty), mask=m_out)


@triton.jit(do_not_specialize=PLACES, do_not_specialize_on_alignment=NUMBERS_OF_ROWS)
def pair_positive_weights_kernel(
    p_x, p_r, p_x_square, p_r_square, p_start, p_end, p_own, p_row, p_grad, p_weight, p, limits,
    n_rows, n_columns, i_row0, i_column0, n_block_rows, n_block_columns, stride_weight,
    POSITIVE_WEIGHTS: tl.constexpr, SELECTS: tl.constexpr, SECOND: tl.constexpr, SELF: tl.constexpr,
    KIND: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # overwrites those of pairs of the same label; the programs of a row tile take its column tiles in turn
    i_row = i_row0 + tl.program_id(0) * BM
    o_i = tl.program_id(0) * BM + tl.arange(0, BM)
    o_m = tl.minimum(i_row0 + o_i, n_rows - 1)
    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    i_last = tl.minimum(i_row + BM, i_row0 + n_block_rows) - 1
    lo = tl.maximum(tl.load(p_start + i_row) - i_column0, 0) // BN
    hi = tl.cdiv(tl.minimum(tl.load(p_end + i_last) - i_column0, n_block_columns), BN)
    b_q = load_squares(p_x_square, o_m, KIND)
    stride = tl.cast(n_rows, tl.int64)
    b_positive = load_positive_numbers(p_row, p_grad, o_m, stride, True)
    for i_n in range(lo + tl.program_id(1), hi, tl.num_programs(1)):
        o_j = i_n * BN + tl.arange(0, BN)
        o_n = i_column0 + o_j
        o_c = tl.minimum(o_n, n_columns - 1)
        b_s = block_similarities(p_x, p_r, o_m, o_c, D, BM, BN, BK, PRECISION)
        b_c, b_slope = closeness_and_slope(b_s, b_q, load_squares(p_r_square, o_c, KIND), KIND)
        o_positive = load_positive_numbers(p_row, p_grad, o_c, stride, SELF)
        b_w = positive_weights(
            b_c, b_positive, o_positive, p, limits, POSITIVE_WEIGHTS, SELECTS, SECOND, True, SELF
        )
        b_w = tl.where(tl.load(p_own + o_m)[:, None] == o_n[None, :], 0.0, b_w) * b_slope
        p_out = p_weight + o_i.to(tl.int64)[:, None] * stride_weight + o_j[None, :]
        m_out = (o_i < n_block_rows)[:, None] & (o_j < n_block_columns)[None, :]
        m_out = m_out & same_label(o_n, b_start, b_end)
        tl.store(p_out, stored(b_w, p_weight.dtype.element_ty), mask=m_out)


class Blocks(NamedTuple):
    """Fills blocks of weights [n, m], one after another in the same memory."""

    call: PairCall
    anchors: Side
    candidates: Side | None
    """None: the anchors are compared with each other, and pairs weigh what both give them."""
    rows: Tensor
    """[4, N], what the forward left of every anchor."""
    grads: Tensor
    """[3, N], float32: gradients of the three sums of every anchor, sorted."""
    memory: Tensor
    """[side, side], in the dtype of the rows."""
    tile: configs.Tile
    positive_tile: configs.Tile

    @classmethod
    def of(
        cls, call: PairCall, anchors: Side, candidates: Side | None, rows: Tensor, grads: Tensor
    ) -> Blocks:
        """With memory for the largest block."""
        units, longest = anchors.units, max(len(each.units) for each in (anchors, candidates or anchors))
        kind = configs.arch(units), units.dtype, units.shape[1], call.precision, call.light
        tile, positive_tile = configs.block_tile(*kind), configs.positive_block_tile(*kind)
        side = configs.block_side(units, longest, tile)
        memory = units.new_empty(side, side)
        return cls(call, anchors, candidates, rows, grads, memory, tile, positive_tile)

    def fill(self, row: int, column: int) -> Tensor:
        """The block whose first row and column are given."""
        call, others, side = self.call, self.candidates or self.anchors, len(self.memory)
        units, count, columns = self.anchors.units, len(self.anchors.units), len(others.units)
        width, itself = units.shape[1], self.candidates is None
        block = self.memory[: min(side, count - row), : min(side, columns - column)]
        sides = units, others.units, self.anchors.squares, others.squares
        places = count, columns, row, column, *block.shape, side
        tile = self.tile
        tiles = configs.cdiv(block.shape[0], tile.rows) * configs.cdiv(block.shape[1], tile.columns)
        pair_weights_kernel[(tiles,)](
            *sides, self.rows, self.grads, self.memory, call.p, *places,
            SELF=itself, D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth,
            **call.negative_weights(), **tile.options(),
        )  # fmt: skip
        tile = self.positive_tile
        pair_positive_weights_kernel[(configs.cdiv(block.shape[0], tile.rows), POSITIVE_PROGRAMS)](
            *sides, *self.anchors.spans, self.rows, self.grads, self.memory, call.p, call.limits, *places,
            SELF=itself, D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth,
            **call.positive_weights(), **tile.options(),
        )  # fmt: skip
        return block


def pair_block_gradients(
    call: PairCall,
    anchors: Side,
    candidates: Side | None,
    rows: Tensor,
    grads: Tensor,
    need_anchors: bool,
    need_candidates: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients [1, N, D] of the anchors' and [1, M, D] of the candidates' unit rows, float32.

    None where one is not needed. For self-pairs (``candidates`` None) the first takes both terms, the second
    is None. The arguments are those of ``pair_row_gradients``.
    """
    self_pairs = candidates is None
    units = anchors.units
    others = units if candidates is None else candidates.units
    blocks = Blocks.of(call, anchors, candidates, rows, grads)
    side = len(blocks.memory)
    grad_anchors = torch.zeros_like(units, dtype=torch.float32) if need_anchors else None
    grad_candidates = None
    if need_candidates and not self_pairs:
        grad_candidates = torch.zeros_like(others, dtype=torch.float32)
    for row in range(0, len(units), side):
        for column in range(row if self_pairs else 0, len(others), side):
            block = blocks.fill(row, column)
            down, right = slice(row, row + block.shape[0]), slice(column, column + block.shape[1])
            if grad_anchors is not None:
                add_product(grad_anchors[down], block, others[right])
            below = grad_anchors if self_pairs and column > row else grad_candidates
            if below is not None:
                add_product(below[right], block.T, units[down])
    return (
        None if grad_anchors is None else grad_anchors[None],
        None if grad_candidates is None else grad_candidates[None],
    )


def add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """``out += left @ right`` with float32 sums; ``out`` is float32, the factors share any dtype."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    elif adds_to_float32(out.device, left.dtype):
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
    else:
        out.addmm_(left.float(), right.float())


@functools.cache
def adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of ``dtype`` can be added to a float32 matrix as they are."""
    out = torch.zeros(16, 16, device=device)
    factor = torch.zeros(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(out, factor, factor, out_dtype=torch.float32, out=out)
    except (RuntimeError, NotImplementedError):
        return False
    return True
