"""Rows in the order of their labels, and where the rows of each label lie on the other side."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.tiles import NUMBERS_OF_ROWS

COUNTED_TILE, COUNTED_COLUMNS, COUNTED_WARPS = 32, 128, 4


@triton.jit
def count_labels(p_label, b_label, b_place, n_labels, BM: tl.constexpr, BN: tl.constexpr):
    # [BM] each: labels below b_label, equal ones, and equal ones at places before b_place
    b_below = tl.zeros([BM], tl.int32)
    b_equal = tl.zeros([BM], tl.int32)
    b_before = tl.zeros([BM], tl.int32)
    for i_n in range(0, n_labels, BN):
        o_n = i_n + tl.arange(0, BN)
        m_n = (o_n < n_labels)[None, :]
        b_other = tl.load(p_label + o_n, mask=o_n < n_labels, other=0)[None, :]
        m_equal = m_n & (b_other == b_label[:, None])
        b_below += tl.sum((m_n & (b_other < b_label[:, None])).to(tl.int32), 1)
        b_equal += tl.sum(m_equal.to(tl.int32), 1)
        b_before += tl.sum((m_equal & (o_n[None, :] < b_place[:, None])).to(tl.int32), 1)
    return b_below, b_equal, b_before


@triton.jit(
    do_not_specialize=["n_rows", "n_others", "stride"], do_not_specialize_on_alignment=NUMBERS_OF_ROWS
)
def label_order_kernel(
    p_label, p_other, p_own, p_order, p_span, n_rows, n_others, stride,
    SELF: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # p_order[k]: the k-th row by label, equal ones in their order; p_span [3, n_rows], rows `stride` apart
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    m_m = o_m < n_rows
    b_label = tl.load(p_label + o_m, mask=m_m, other=0)
    b_below, b_equal, b_before = count_labels(p_label, b_label, o_m, n_rows, BM, BN)
    b_rank = b_below + b_before
    b_itself = b_rank
    if not SELF:
        b_own = tl.full([BM], -1, tl.int64)
        if p_own is not None:
            b_own = tl.load(p_own + o_m, mask=m_m, other=-1)
        b_below, b_equal, b_before = count_labels(p_other, b_label, b_own, n_others, BM, BN)
        # one of another label is no positive, so there is nothing to leave out
        m_own = b_own >= 0
        m_own = m_own & (tl.load(p_other + b_own, mask=m_own, other=0) == b_label)
        b_itself = tl.where(m_own, b_below + b_before, -1)
    tl.store(p_order + b_rank, o_m.to(tl.int64), mask=m_m)
    tl.store(p_span + b_rank, b_below, mask=m_m)
    tl.store(p_span + stride + b_rank, b_below + b_equal, mask=m_m)
    tl.store(p_span + 2 * stride + b_rank, b_itself, mask=m_m)


def order_by_label(
    labels: Tensor, ref_labels: Tensor | None, own: Tensor | None, order: Tensor, spans: Tensor
) -> None:
    """Fills ``order`` [N + M] and ``spans`` [3, N + M] as fastdml/engines/pair_ops.py describes them.

    Args:
        labels: [N], int64, of the anchors.
        ref_labels: [M], int64, of the candidates; None: the anchors are those.
        own: [N], int64: the candidate, of the same label, that each anchor is; -1 or None: none.
    """
    anchors = len(labels)
    if max(anchors, len(order) - anchors) > configs.COUNTED_ROWS:
        _sort(labels, ref_labels, own, order, spans)
    elif ref_labels is None:
        _count(labels, None, None, order, spans)
    else:
        _count(labels, ref_labels, own, order[:anchors], spans[:, :anchors])
        _count(ref_labels, labels, None, order[anchors:], spans[:, anchors:])


def _count(labels: Tensor, others: Tensor | None, own: Tensor | None, order: Tensor, spans: Tensor) -> None:
    """Fills order and spans of one side; ``others`` None: the other is the same."""
    labels = labels.contiguous()
    same = others is None
    others = labels if others is None else others.contiguous()
    label_order_kernel[(configs.cdiv(len(labels), COUNTED_TILE),)](
        labels, others, None if own is None else own.contiguous(), order, spans, len(labels), len(others),
        spans.stride(0), SELF=same, BM=COUNTED_TILE, BN=COUNTED_COLUMNS, num_warps=COUNTED_WARPS,
    )  # fmt: skip


def _sort(
    labels: Tensor, ref_labels: Tensor | None, own: Tensor | None, order: Tensor, spans: Tensor
) -> None:
    anchors = len(labels)
    sorted_labels = _sort_side(labels, order[:anchors])
    if ref_labels is None:
        _find_spans(sorted_labels, sorted_labels, spans)
        torch.arange(anchors, out=spans[2])
        return
    sorted_refs = _sort_side(ref_labels, order[anchors:])
    _find_spans(sorted_labels, sorted_refs, spans[:, :anchors])
    _find_spans(sorted_refs, sorted_labels, spans[:, anchors:])
    _find_own(own, order[:anchors], order[anchors:], spans[2])


def _sort_side(labels: Tensor, order: Tensor) -> Tensor:
    """Labels in ascending order; equal ones keep theirs. Fills ``order`` with the input row of each."""
    values = torch.empty_like(labels)
    torch.sort(labels, stable=True, out=(values, order))
    return values


def _find_spans(labels: Tensor, others: Tensor, spans: Tensor) -> None:
    """Fills ``spans[:2]`` of [3, n]: where each of the sorted ``labels`` starts and ends among ``others``."""
    torch.searchsorted(others, labels, out_int32=True, out=spans[0])
    torch.searchsorted(others, labels, out_int32=True, right=True, out=spans[1])


def _find_own(own: Tensor | None, order: Tensor, ref_order: Tensor, found: Tensor) -> None:
    """Fills ``found`` [N + M]: the sorted candidate that each sorted anchor is; -1: none, or a candidate."""
    found.fill_(-1)
    if own is None:
        return
    places = torch.empty_like(ref_order)
    places[ref_order] = torch.arange(len(ref_order), device=ref_order.device)
    sorted_own = own[order]
    found[: len(order)] = torch.where(sorted_own < 0, -1, places[sorted_own.clamp_min(0)])
