"""The k nearest points of other labels: one sweep over the points, in which every row keeps the k so far.

Points are compared by |p|^2 / 2 - <x, p>, which grows with the distance. They are sorted by label, so that
those of a row's own are a span. The least of a tile is taken as long as it is below the k-th of some row, so
that late tiles mostly cost one comparison.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.centroid_rows import Compared
from fastdml.triton_kernels.pair import precision_of
from fastdml.triton_kernels.proxy_backward import make_product
from fastdml.triton_kernels.tiles import load_resident, load_slab, product, same_label, share


@triton.jit
def insert_least(b_key, first, b_kept, b_index, o_k, BN: tl.constexpr, KP: tl.constexpr):
    # moves keys [BM, BN] of the points from ``first`` on into b_kept [BM, KP], the least of each row first
    b_bound = tl.max(b_kept, 1)
    b_least = tl.min(b_key, 1)
    while tl.max((b_least < b_bound).to(tl.int32), 0) > 0:
        # the first of equals
        o_at = tl.arange(0, BN)
        b_at = tl.min(tl.where(b_key == b_least[:, None], o_at[None, :], BN), 1)
        b_slot = tl.min(tl.where(b_kept == b_bound[:, None], o_k[None, :], KP), 1)
        m_slot = (o_k[None, :] == b_slot[:, None]) & (b_least < b_bound)[:, None]
        b_kept = tl.where(m_slot, b_least[:, None], b_kept)
        b_index = tl.where(m_slot, (first + b_at)[:, None], b_index)
        b_key = tl.where(o_at[None, :] == b_at[:, None], float("inf"), b_key)
        b_bound = tl.max(b_kept, 1)
        b_least = tl.min(b_key, 1)
    return b_kept, b_index


@triton.jit(do_not_specialize=["n_rows", "n_points", "k"])
def nearest_others_kernel(
    p_x, p_r, p_x_square, p_half, p_start, p_end, p_key, p_index, n_rows, n_points, k,
    KP: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # fills p_key and p_index [n_rows, splits, k] from this program's points, the nearest first; infinity and
    # -1 where there are fewer. p_half: -|p|^2 / 2, -infinity beyond the points in the last tile
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    o_m = tl.minimum(o_m, n_rows - 1)
    o_k = tl.arange(0, KP)
    b_start = tl.load(p_start + o_m)
    b_end = tl.load(p_end + o_m)
    # a place of -infinity is never taken: those beyond k, and all of a row that is not finite
    m_kept = (o_k < k)[None, :] & (tl.load(p_x_square + o_m) < float("inf"))[:, None]
    b_kept = tl.where(m_kept, float("inf"), -float("inf"))
    b_index = tl.full([BM, KP], -1, tl.int32)
    b_x = load_resident(p_x, o_m, D, BK)
    begin, end = share(tl.cdiv(n_points, BN))
    for i_n in range(begin, end):
        o_n = i_n * BN + tl.arange(0, BN)
        o_c = tl.minimum(o_n, n_points - 1)
        # the product starts from what is subtracted from it, which then takes no registers of its own
        b_near = tl.zeros([BM, BN], tl.float32) + tl.load(p_half + o_n)[None, :]
        if BK >= D:
            b_near = product(b_x, tl.trans(load_slab(p_r, o_c, 0, D, BK)), b_near, PRECISION)
        else:
            for i_k in range(0, D, BK):
                b_r = load_slab(p_r, o_c, i_k, D, BK)
                b_near = product(load_slab(p_x, o_m, i_k, D, BK), tl.trans(b_r), b_near, PRECISION)
        # false for NaN
        m = (b_near > -float("inf")) & ~same_label(o_n, b_start, b_end)
        b_key = tl.where(m, -b_near, float("inf"))
        b_kept, b_index = insert_least(b_key, i_n * BN, b_kept, b_index, o_k, BN, KP)

    b_kept = tl.where(b_index < 0, float("inf"), b_kept)
    o_out = (o_m.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * k
    for i_k in range(k):
        b_least = tl.min(b_kept, 1)
        b_slot = tl.min(tl.where(b_kept == b_least[:, None], o_k[None, :], KP), 1)
        m_slot = o_k[None, :] == b_slot[:, None]
        tl.store(p_key + o_out + i_k, b_least, mask=m_m)
        tl.store(p_index + o_out + i_k, tl.max(tl.where(m_slot, b_index, -1), 1), mask=m_m)
        b_kept = tl.where(m_slot, float("inf"), b_kept)
        b_index = tl.where(m_slot, -1, b_index)


def nearest_in_one_sweep(rows: Compared, points: Compared, start: Tensor, end: Tensor, k: int) -> Tensor:
    """[B, k], int32, the nearest first; -1 where there are fewer.

    Args:
        rows: B of them.
        points: P, at least 1.
        start: [B], int32: the first of the points, next to each other, that are none of a row's nearest.
        end: [B], int32: the first beyond them.
        k: at most ``configs.NEAREST_KEPT``.
    """
    (count, width), total = rows.rows.shape, len(points.rows)
    precision = precision_of(rows.rows)
    tile = configs.centroid_tile(configs.arch(rows.rows), rows.rows.dtype, width, precision)
    row_blocks, point_tiles = configs.cdiv(count, tile.rows), configs.cdiv(total, tile.columns)
    splits = configs.class_splits(rows.rows, row_blocks, point_tiles)
    halves = F.pad(points.squares * -0.5, (0, point_tiles * tile.columns - total), value=-math.inf)
    keys = torch.empty(count, splits, k, dtype=torch.float32, device=start.device)
    found = torch.empty(count, splits, k, dtype=torch.int32, device=start.device)
    nearest_others_kernel[(row_blocks, splits)](
        rows.rows, points.rows, rows.squares, halves, start, end, keys, found, count, total, k,
        KP=configs.power_of_two(k, 8), D=width, BM=tile.rows, BN=tile.columns, BK=tile.depth,
        PRECISION=precision, **tile.options(),
    )  # fmt: skip
    keys, found = keys.flatten(1), found.flatten(1)
    return found if splits == 1 else found.gather(1, keys.sort(dim=1, stable=True).indices[:, :k])


def nearest_by_blocks(
    rows: Compared, points: Compared, labels: Tensor, point_labels: Tensor, k: int
) -> Tensor:
    """[B, k], int64, for any ``k`` by vendor products and selections; the points need no order."""
    total = len(points.rows)
    found = torch.full((len(rows.rows), k), -1, dtype=torch.int64, device=labels.device)
    length = max(1, configs.CENTROID_PRODUCTS // total)
    products = torch.empty(min(length, len(found)), total, dtype=torch.float32, device=labels.device)
    halves = points.squares / 2
    for first in range(0, len(found), length):
        at = slice(first, min(first + length, len(found)))
        keys = products[: at.stop - at.start]
        make_product(keys, rows.rows[at], points.rows.T)
        torch.sub(halves, keys, out=keys)
        usable = keys.isfinite() & rows.squares[at, None].isfinite()
        keys.masked_fill_(~usable | (labels[at, None] == point_labels), math.inf)
        nearest, order = keys.topk(min(k, total), dim=1, largest=False)
        found[at, : nearest.shape[1]] = torch.where(nearest < math.inf, order, -1)
    return found
