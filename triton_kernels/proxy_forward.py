"""Forward of the proxy engine: sums of every sample over chunks of classes; no similarity leaves the chip."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.proxy_pool import BELOW_ALL, add_to_pool, empty_pool
from fastdml.triton_kernels.tiles import load_resident, plain_similarities, share

# What is known of a sample so far: the largest similarity to another class, the sum of exp(scale (S - that))
# over the other classes, the target, and the total.
SUMS = tl.constexpr(4)


@triton.jit
def pooled_similarities(
    b_x, p_x, p_tile, o_m, n_places, sharpness, K: tl.constexpr, SOFT: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # [BM, BN] for BN classes, whose k-th centres are n_places D after those before
    step = tl.cast(n_places, tl.int64) * D
    if K == 1:
        b_pooled = plain_similarities(b_x, p_x, p_tile, o_m, D, BM, BN, BK, PRECISION)
    elif SOFT:
        b_most, b_mass, b_lag = empty_pool(BM, BN)
        for i_k in range(K):
            b_s = plain_similarities(b_x, p_x, p_tile + i_k * step, o_m, D, BM, BN, BK, PRECISION)
            b_most, b_mass, b_lag = add_to_pool(b_s, b_most, b_mass, b_lag, sharpness)
        b_pooled = b_most + b_lag / b_mass
    else:
        b_pooled = tl.full([BM, BN], BELOW_ALL, tl.float32)
        for i_k in range(K):
            b_s = plain_similarities(b_x, p_x, p_tile + i_k * step, o_m, D, BM, BN, BK, PRECISION)
            b_pooled = tl.maximum(b_pooled, b_s)
    return b_pooled


@triton.jit(do_not_specialize=["n_rows", "n_classes", "n_places", "first"])
def proxy_sums_kernel(
    p_x, p_packed, p_label, p_sum, n_rows, n_classes, n_places, first, sharpness, exponent,
    K: tl.constexpr, SOFT: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # carries p_sum [SUMS, splits, n_rows] on over this program's classes; exponent = scale log2(e)
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    # -1 for a class beyond the chunk, which may have places in the last tile
    b_label = tl.load(p_label + o_m) - first
    b_label = tl.where((b_label >= 0) & (b_label < n_classes), b_label, -1).to(tl.int32)
    b_x = load_resident(p_x, o_m, D, BK)

    p_of_row = p_sum + tl.program_id(1).to(tl.int64) * n_rows + o_m
    stride = tl.num_programs(1).to(tl.int64) * n_rows
    b_most = tl.load(p_of_row)
    b_sum = tl.load(p_of_row + stride)
    b_target = tl.load(p_of_row + 2 * stride)
    b_total = tl.load(p_of_row + 3 * stride)
    begin, end = share(tl.cdiv(n_classes, BN))
    for i_n in range(begin, end):
        p_tile = p_packed + tl.cast(i_n, tl.int64) * (BN * D)
        b_s = pooled_similarities(
            b_x, p_x, p_tile, o_m, n_places, sharpness, K, SOFT, D, BM, BN, BK, PRECISION
        )
        o_n = i_n * BN + tl.arange(0, BN)
        m_n = (o_n < n_classes)[None, :]
        m_own = o_n[None, :] == b_label[:, None]
        b_total += tl.sum(tl.where(m_n, b_s, 0.0), 1)
        b_target += tl.sum(tl.where(m_own, b_s, 0.0), 1)
        b_s = tl.where(m_own | ~m_n, -float("inf"), b_s)
        b_before = b_most
        b_most = tl.maximum(b_most, tl.max(b_s, 1))
        b_zero = tl.where(b_most == -float("inf"), 0.0, b_most)
        b_sum = b_sum * tl.exp2((b_before - b_zero) * exponent)
        b_sum += tl.sum(tl.exp2((b_s - b_zero[:, None]) * exponent), 1)
    tl.store(p_of_row, b_most, mask=m_m)
    tl.store(p_of_row + stride, b_sum, mask=m_m)
    tl.store(p_of_row + 2 * stride, b_target, mask=m_m)
    tl.store(p_of_row + 3 * stride, b_total, mask=m_m)


class ProxySums:
    """Sums of B samples over the chunks of classes that were added, in their order."""

    def __init__(
        self, rows: Tensor, labels: Tensor, per_class: int, scale: float, gamma: float, precision: str
    ) -> None:
        """Starts with no class.

        Args:
            rows: [B, D], contiguous, in the dtype that products take.
            labels: [B], int64, contiguous.
            per_class: K.
            scale: of similarities, positive.
            gamma: temperature of the softmax over the centres of a class; 0: the closest alone.
            precision: of float32 products, as ``tl.dot`` names it.
        """
        self._rows, self._labels, self._precision = rows, labels, precision
        self._per_class, self._scale, self._gamma = per_class, scale, gamma
        arch = configs.arch(rows)
        self.tile = configs.proxy_tile(arch, rows.dtype, rows.shape[1], precision, per_class)
        self._sums: Tensor | None = None

    def add(self, packed: Tensor, first: int, classes: int) -> None:
        """Adds ``classes`` classes from ``first`` on; the first chunk is the largest.

        Args:
            packed: [K, places, D], contiguous; ``places`` is a multiple of the tile's columns.
        """
        count, width = self._rows.shape
        tile = self.tile
        row_blocks = configs.cdiv(count, tile.rows)
        if self._sums is None:
            splits = configs.class_splits(self._rows, row_blocks, configs.cdiv(classes, tile.columns))
            self._sums = torch.zeros(SUMS.value, splits, count, dtype=torch.float32, device=packed.device)
            self._sums[0] = -math.inf
        proxy_sums_kernel[(row_blocks, self._sums.shape[1])](
            self._rows, packed, self._labels, self._sums, count, classes, packed.shape[1], first,
            math.log2(math.e) / self._gamma if self._gamma else 0.0, math.log2(math.e) * self._scale,
            K=self._per_class, SOFT=self._gamma > 0, D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth,
            PRECISION=self._precision, **tile.options(),
        )  # fmt: skip

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """``others``, ``target`` and ``total`` [B], float32, of the classes that were added."""
        assert self._sums is not None
        most, sums, targets, totals = self._sums
        largest = most.amax(dim=0)
        largest = torch.where(largest == -math.inf, 0, largest)
        found = (sums * torch.exp((most - largest) * self._scale)).sum(dim=0)
        # rounded once: every weight of the backward bears this rounding
        others = self._scale * largest.double() + found.double().log()
        return others.float(), targets.sum(dim=0), totals.sum(dim=0)
