"""Sums over the entries of every segment, in their order and without atomics: entries are sorted by segment.

The sums of a class are over its rows; the gradient of a point is a sum over the places where it is listed. A
segment of many entries is summed in pieces of a fixed length, of which a second kernel adds the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs


@triton.jit
def add_compensated(b_sum, b_lost, b):
    # b_sum + b, and the rounding error of that, which the next call gives back
    b = b - b_lost
    b_next = b_sum + b
    return b_next, (b_next - b_sum) - b


@triton.jit
def sum_of_entries(
    p_x, p_order, p_weight, b_point, begin, end, o_d, m_d, n_listed, dtype: tl.constexpr,
    D: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # [BD]: of the rows x of the sorted entries from begin to end, or of weight (point - x)
    b_sum = tl.zeros([BD], dtype)
    b_lost = tl.zeros([BD], dtype)
    for i_e in range(begin, end, BE):
        o_e = i_e + tl.arange(0, BE)
        m_e = o_e < end
        b_entry = tl.load(p_order + o_e, mask=m_e, other=0)
        p_row = p_x + b_entry // n_listed * D
        b_x = tl.load(p_row[:, None] + o_d[None, :], mask=m_e[:, None] & m_d[None, :], other=0.0).to(dtype)
        if p_weight is not None:
            b_x = tl.load(p_weight + b_entry, mask=m_e, other=0.0)[:, None] * (b_point[None, :] - b_x)
        b_sum, b_lost = add_compensated(b_sum, b_lost, tl.sum(b_x, 0))
    return b_sum


@triton.jit(do_not_specialize=["n_segments", "n_listed", "piece"])
def piece_sums_kernel(
    p_x, p_order, p_weight, p_point, p_start, p_first, p_owner, p_part, n_segments, n_listed, piece,
    D: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # p_part [pieces, D]; there are more programs than pieces, of which the others write what nobody reads
    i_piece = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    m_d = o_d < D
    i_segment = tl.minimum(tl.load(p_owner + i_piece), n_segments - 1)
    begin = tl.load(p_start + i_segment) + (i_piece - tl.load(p_first + i_segment)) * piece
    end = tl.minimum(begin + piece, tl.load(p_start + i_segment + 1))
    b_point = tl.zeros([BD], tl.float32)
    if p_point is not None:
        b_point = tl.load(p_point + i_segment * D + o_d, mask=m_d, other=0.0)
    dtype: tl.constexpr = p_part.dtype.element_ty
    b_sum = sum_of_entries(p_x, p_order, p_weight, b_point, begin, end, o_d, m_d, n_listed, dtype, D, BE, BD)
    tl.store(p_part + i_piece * D + o_d, b_sum, mask=m_d)


@triton.jit(do_not_specialize=["n_listed"])
def segment_sums_kernel(
    p_x, p_order, p_weight, p_point, p_start, p_first, p_part, p_out, n_listed,
    D: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # p_out [segments, D]: from the entries, or from the pieces where there are any
    i_segment = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    m_d = o_d < D
    dtype: tl.constexpr = p_out.dtype.element_ty
    first = tl.load(p_first + i_segment)
    last = tl.load(p_first + i_segment + 1)
    b_sum = tl.zeros([BD], dtype)
    if first < last:
        b_lost = tl.zeros([BD], dtype)
        for i_piece in range(first, last):
            b_part = tl.load(p_part + i_piece * D + o_d, mask=m_d, other=0.0)
            b_sum, b_lost = add_compensated(b_sum, b_lost, b_part)
    else:
        begin = tl.load(p_start + i_segment)
        end = tl.load(p_start + i_segment + 1)
        b_point = tl.zeros([BD], tl.float32)
        if p_point is not None:
            b_point = tl.load(p_point + i_segment * D + o_d, mask=m_d, other=0.0)
        b_sum = sum_of_entries(
            p_x, p_order, p_weight, b_point, begin, end, o_d, m_d, n_listed, dtype, D, BE, BD
        )
    tl.store(p_out + i_segment * D + o_d, b_sum, mask=m_d)


class Segments(NamedTuple):
    """Entries sorted by segment, all int64."""

    order: Tensor
    """[n]: the entries; those of one segment in ascending order."""
    starts: Tensor
    """[C + 1]: where in ``order`` every segment starts."""
    first_pieces: Tensor
    """[C + 1]: how many pieces the segments before have; only long segments have any."""
    owners: Tensor
    """[most pieces]: the segment of every piece; what is beyond the last piece has none, C or less."""


def segments_of(names: Tensor, count: int) -> Segments:
    """Groups entries by their segment, ``names`` [n], int64; those outside [0, C) are left out."""
    ordered, order = names.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(count + 1, device=names.device))
    piece = configs.SEGMENT_PIECE
    lengths = starts.diff()
    pieces = torch.where(lengths > piece, (lengths + piece - 1) // piece, 0)
    first_pieces = torch.nn.functional.pad(pieces.cumsum(0), (1, 0))
    # a segment longer than a piece has less than two pieces for every piece of entries
    most = torch.arange(2 * (len(names) // piece), device=names.device)
    return Segments(order, starts, first_pieces, torch.searchsorted(first_pieces[1:], most, right=True))


def segment_sums(
    segments: Segments,
    rows: Tensor,
    dtype: torch.dtype,
    *,
    listed: int = 1,
    weights: Tensor | None = None,
    points: Tensor | None = None,
) -> Tensor:
    """[C, D] of ``dtype``, float32 or float64: sums of rows x, or of weight (point - x), of every segment.

    Args:
        segments: C, of entries; entry e is of the row ``e // listed``.
        rows: [B, D], float32, contiguous.
        dtype: of the sums, which are kept in it too.
        listed: entries of a row.
        weights: [n], float32, contiguous: of the entries; None for sums of the rows themselves.
        points: [C, D], float32, contiguous; given with the weights.
    """
    width, count = rows.shape[1], len(segments.starts) - 1
    out = torch.empty(count, width, dtype=dtype, device=rows.device)
    tile = configs.segment_tile(width)
    blocks = configs.cdiv(width, tile.depth)
    most = len(segments.owners)
    parts = out.new_empty(most, width)
    given = rows, segments.order, weights, points, segments.starts, segments.first_pieces
    shape = {"D": width, "BE": tile.rows, "BD": tile.depth} | tile.options()
    if most:
        piece_sums_kernel[(most, blocks)](
            *given, segments.owners, parts, count, listed, configs.SEGMENT_PIECE, **shape
        )
    segment_sums_kernel[(count, blocks)](*given, parts, out, listed, **shape)
    return out
