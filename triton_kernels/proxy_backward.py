"""Backward of the proxy engine: a vendor product makes a block of similarities, one kernel turns it into
weights while it is in the L2, and two vendor products turn those into gradients.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.pair_block import add_product, adds_to_float32
from fastdml.triton_kernels.proxy_pool import BELOW_ALL, add_to_pool, empty_pool
from fastdml.triton_kernels.tiles import stored

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit(do_not_specialize=["n_rows", "n_block_rows", "n_classes", "row0", "first"])
def proxy_weights_kernel(
    p_s, p_weight, p_label, p_others, p_grad, n_rows, n_block_rows, n_classes, stride_row, row0, first, scale,
    inverse, K: tl.constexpr, SOFT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # p_weight [n_block_rows, K, n_classes], rows stride_row apart: gradients by the similarities p_s, which
    # it may replace; p_grad [3, n_rows]: those of others, target and total; inverse = 1 / gamma
    o_i = tl.program_id(1) * BM + tl.arange(0, BM)
    o_n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = (o_i < n_block_rows)[:, None] & (o_n < n_classes)[None, :]
    o_s = o_i.to(tl.int64)[:, None] * stride_row + o_n[None, :]

    if K == 1:
        b_pooled = tl.load(p_s + o_s, mask=m, other=0.0)
    elif SOFT:
        b_most, b_mass, b_lag = empty_pool(BM, BN)
        for i_k in range(K):
            b_s = tl.load(p_s + o_s + i_k * n_classes, mask=m, other=0.0)
            b_most, b_mass, b_lag = add_to_pool(b_s, b_most, b_mass, b_lag, inverse * LOG2_E)
        b_lag = b_lag / b_mass
        b_pooled = b_most + b_lag
    else:
        b_pooled = tl.full([BM, BN], BELOW_ALL, tl.float32)
        b_best = tl.zeros([BM, BN], tl.int32)
        for i_k in range(K):
            b_s = tl.load(p_s + o_s + i_k * n_classes, mask=m, other=0.0)
            # the first of equals
            b_best = tl.where(b_s > b_pooled, i_k, b_best)
            b_pooled = tl.maximum(b_pooled, b_s)

    o_m = tl.minimum(row0 + o_i, n_rows - 1)
    b_push = scale * tl.load(p_grad + o_m)
    b_push = b_push[:, None] * tl.exp2((scale * b_pooled - tl.load(p_others + o_m)[:, None]) * LOG2_E)
    b_pull = tl.load(p_grad + n_rows + o_m)
    m_own = (tl.load(p_label + o_m) - first)[:, None] == o_n[None, :]
    b_w = tl.where(m_own, b_pull[:, None], b_push) + tl.load(p_grad + 2 * n_rows + o_m)[:, None]

    dtype: tl.constexpr = p_weight.dtype.element_ty
    if K == 1:
        tl.store(p_weight + o_s, stored(b_w, dtype), mask=m)
    else:
        if SOFT:
            b_w = b_w / b_mass
        for i_k in range(K):
            if SOFT:
                b_s = tl.load(p_s + o_s + i_k * n_classes, mask=m, other=0.0) - b_most
                b_k = b_w * tl.exp2(b_s * (inverse * LOG2_E)) * (1.0 + (b_s - b_lag) * inverse)
            else:
                b_k = tl.where(b_best == i_k, b_w, 0.0)
            tl.store(p_weight + o_s + i_k * n_classes, stored(b_k, dtype), mask=m)


class Samples(NamedTuple):
    """What the weights of B samples read, all contiguous."""

    rows: Tensor
    """[B, D], in the dtype that products take."""
    labels: Tensor
    """[B], int64."""
    others: Tensor
    """[B], float32: the statistic."""
    grads: Tensor
    """[3, B], float32: gradients of the statistics others, target and total."""


class ProxyGradients:
    """Gradients of rows and packed centres, a block of classes at a time, in memory that is reused."""

    def __init__(
        self, samples: Samples, per_class: int, scale: float, gamma: float, block: int, need_rows: bool
    ) -> None:
        """Starts with no class.

        Args:
            samples: to differentiate by.
            per_class: K.
            scale: of similarities.
            gamma: temperature of the softmax over the centres of a class; 0: the first of the closest alone.
            block: most classes of a block.
            need_rows: whether gradients of the rows are wanted.
        """
        rows = samples.rows
        self._samples, self._per_class, self._scale, self._gamma = samples, per_class, scale, gamma
        self._length = min(len(rows), configs.proxy_samples(per_class))
        elements = self._length * configs.padded(block * per_class)
        self._similarities = torch.empty(elements, dtype=torch.float32, device=rows.device)
        self._weights = self._similarities
        if rows.dtype != torch.float32:
            self._weights = torch.empty(elements, dtype=rows.dtype, device=rows.device)
        self.rows = rows.new_zeros(rows.shape if need_rows else (0, rows.shape[1]), dtype=torch.float32)
        """[B, D], float32: gradients of the rows by the classes so far."""

    def add(self, packed: Tensor, first: int, grads: Tensor | None) -> None:
        """Adds a block of classes, which starts with class ``first``.

        Args:
            packed: [K n, D], contiguous: the first centres of the classes, then the second ones.
            first: its first class.
            grads: [K n, D], float32: filled with the gradients of ``packed``; None: not wanted.
        """
        rows = self._samples.rows
        for start in range(0, len(rows), self._length):
            part = rows[start : start + self._length]
            weights = self._weights_of(part, start, packed, first)
            if len(self.rows):
                add_product(self.rows[start : start + self._length], weights, packed)
            if grads is not None:
                (add_product if start else make_product)(grads, weights.T, part)

    def _weights_of(self, rows: Tensor, start: int, packed: Tensor, first: int) -> Tensor:
        """[b, K n]: gradients by the similarities of the rows from ``start`` on."""
        similarities, weights = (
            padded_block(flat, len(rows), len(packed)) for flat in (self._similarities, self._weights)
        )
        make_product(similarities, rows, packed.T)
        classes = len(packed) // self._per_class
        tile = configs.PROXY_WEIGHTS
        proxy_weights_kernel[(configs.cdiv(classes, tile.columns), configs.cdiv(len(rows), tile.rows))](
            similarities, weights, self._samples.labels, self._samples.others, self._samples.grads,
            len(self._samples.rows), len(rows), classes, weights.stride(0), start, first, self._scale,
            1 / self._gamma if self._gamma else 0.0,
            K=self._per_class, SOFT=self._gamma > 0, BM=tile.rows, BN=tile.columns, **tile.options(),
        )  # fmt: skip
        return weights


def padded_block(flat: Tensor, rows: int, columns: int) -> Tensor:
    """[rows, columns] in the memory of ``flat``, each row aligned as products of 16 bits want it."""
    apart = configs.padded(columns)
    return flat[: rows * apart].view(rows, apart)[:, :columns]


def make_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """``out = left @ right`` with float32 sums; ``out`` is float32, the factors share any dtype."""
    if left.dtype == out.dtype:
        torch.mm(left, right, out=out)
    elif adds_to_float32(out.device, left.dtype):
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left.float(), right.float(), out=out)
