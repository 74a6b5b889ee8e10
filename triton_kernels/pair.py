"""The pair engine's two operators on Triton, as fastdml/engines/pair_ops.py describes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.pair_backward import pair_row_gradients
from fastdml.triton_kernels.pair_block import pair_block_gradients
from fastdml.triton_kernels.pair_forward import pair_losses
from fastdml.triton_kernels.rules import PAIR_RULES, PairRuleKernels
from fastdml.triton_kernels.units import row_gradients, unit_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Divided by the largest upstream gradient, weights are at most 2; this brings them to the top of float16.
HALF_SCALE = 2.0**14


def rule_named(name: str) -> PairRuleKernels:
    if name not in PAIR_RULES:
        raise ValueError(f"the triton backend has no rule named {name!r}, only {', '.join(PAIR_RULES)}")
    return PAIR_RULES[name]


def precision_of(tensor: Tensor) -> str:
    """What ``tl.dot`` does with float32, from torch's setting for products on this device."""
    if tensor.dtype != torch.float32 or not tensor.is_cuda or torch.version.hip is not None:
        return "ieee"
    # The legacy setters write this too; the legacy getters raise where both were used.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def pair_forward(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    rule: str,
    constants: Sequence[float],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses, unit rows, norms, order, spans, rows and no tiles."""
    if embeddings.dtype not in DTYPES:
        raise TypeError(f"embeddings must be float16, bfloat16 or float32 on triton, got {embeddings.dtype}")
    kernels = rule_named(rule)
    anchors, width = embeddings.shape
    total = anchors + (0 if ref_embeddings is None else ref_embeddings.shape[0])
    device = embeddings.device
    units = torch.empty(total, width, dtype=embeddings.dtype, device=device)
    norms = torch.empty(total, dtype=torch.float32, device=device)
    order = torch.empty(total, dtype=torch.int64, device=device)
    spans = torch.empty(2, total, dtype=torch.int32, device=device)

    sorted_labels = _sort(labels, order[:anchors])
    unit_rows(embeddings, order[:anchors], units[:anchors], norms[:anchors])
    if ref_embeddings is None or ref_labels is None:
        _find_spans(sorted_labels, sorted_labels, spans)
        candidates, candidate_norms = None, norms
    else:
        sorted_refs = _sort(ref_labels, order[anchors:])
        candidates, candidate_norms = units[anchors:], norms[anchors:]
        unit_rows(ref_embeddings, order[anchors:], candidates, candidate_norms)
        _find_spans(sorted_labels, sorted_refs, spans[:, :anchors])
        _find_spans(sorted_refs, sorted_labels, spans[:, anchors:])
    losses, rows = pair_losses(
        kernels, constants, units[:anchors], candidates, spans[:, :anchors], order, norms,
        (candidate_norms * 0).sum(), precision_of(embeddings),
    )  # fmt: skip
    return losses, units, norms, order, spans, rows, losses.new_empty(0)


def pair_backward(
    grad_losses: Tensor,
    units: Tensor,
    norms: Tensor,
    order: Tensor,
    spans: Tensor,
    rows: Tensor,
    tiles: Tensor,
    rule: str,
    constants: Sequence[float],
    need_anchors: bool,
    need_candidates: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and of candidates, in the input's dtype and order; empty where not needed."""
    kernels = rule_named(rule)
    anchors = rows.shape[1]
    anchor_units, candidate_units = units[:anchors], units[anchors:]
    candidates = candidate_units if candidate_units.shape[0] else None
    precision = precision_of(units)
    upstream = grad_losses[order[:anchors]]
    unscale = None
    if units.dtype == torch.float16:
        largest = upstream.abs().amax().clamp_min(2.0**-100)
        upstream, unscale = upstream * (HALF_SCALE / largest), largest / HALF_SCALE
    scales = rows[2:] * upstream

    anchor_grads: Tensor | None = None
    candidate_grads: Tensor | None = None
    need_candidates = need_candidates and candidates is not None
    tile = configs.row_owner_tile(configs.arch(units), units.dtype, units.shape[1], precision)
    if tile is not None:
        if need_anchors:
            anchor_grads = pair_row_gradients(
                kernels, constants, anchor_units, candidates, spans[:, :anchors], rows, scales,
                True, tile, precision,
            )  # fmt: skip
        if need_candidates:
            candidate_grads = pair_row_gradients(
                kernels, constants, candidate_units, anchor_units, spans[:, anchors:], rows, scales,
                False, tile, precision,
            )  # fmt: skip
    else:
        anchor_grads, candidate_grads = pair_block_gradients(
            kernels, constants, anchor_units, candidates, spans[:, :anchors], rows, scales,
            need_anchors, need_candidates, precision,
        )  # fmt: skip

    def finish(grads: Tensor | None, rows: slice) -> Tensor:
        if grads is None:
            return units.new_empty(0, units.shape[1])
        return row_gradients(grads, units[rows], norms[rows], order[rows], unscale)

    return finish(anchor_grads, slice(0, anchors)), finish(candidate_grads, slice(anchors, None))


def _sort(labels: Tensor, order: Tensor) -> Tensor:
    """Labels in ascending order; equal ones keep theirs. Fills ``order`` with the input row of each."""
    values = torch.empty_like(labels)
    torch.sort(labels, stable=True, out=(values, order))
    return values


def _find_spans(labels: Tensor, others: Tensor, spans: Tensor) -> None:
    """Fills ``spans`` [2, n]: where each of the sorted ``labels`` starts and ends among ``others``."""
    torch.searchsorted(others, labels, out_int32=True, out=spans[0])
    torch.searchsorted(others, labels, out_int32=True, right=True, out=spans[1])
