"""The pair engine's two operators on Triton, as fastdml/engines/pair_ops.py describes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.closeness import INNER
from fastdml.triton_kernels.label_order import order_by_label
from fastdml.triton_kernels.pair_backward import pair_row_gradients
from fastdml.triton_kernels.pair_block import pair_block_gradients
from fastdml.triton_kernels.pair_call import PairCall, Side
from fastdml.triton_kernels.pair_forward import pair_statistics
from fastdml.triton_kernels.units import row_gradients, sorted_gradients, squared_lengths, unit_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Weights are at most 1 an anchor once divided by the largest; this brings them near the top of float16.
HALF_SCALE = 2.0**14


def precision_of(tensor: Tensor) -> str:
    """What ``tl.dot`` does with float32, from torch's setting for products on this device."""
    if tensor.dtype != torch.float32 or not tensor.is_cuda or torch.version.hip is not None:
        return "ieee"
    # The legacy setters write this too; the legacy getters raise where both were used.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def as_multiplied(tensor: Tensor) -> Tensor:
    """``tensor`` as ``tl.dot`` reads it: TF32 products leave the last 13 bits out, which rounds towards zero.

    Rounded to nearest instead, and before lengths are taken of it: equal rows then are at distance 0.
    """
    if precision_of(tensor) != "tf32":
        return tensor
    bits = tensor.view(torch.int32)
    nearest = (bits + 0xFFF + ((bits >> 13) & 1)) & -0x2000
    return torch.where(tensor.isfinite(), nearest, bits).view(tensor.dtype)


def pair_forward(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    own: Tensor | None,
    row: Tensor | None,
    terms: str,
    constants: Sequence[float],
    selection: Sequence[float],
    closeness: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistics, unit rows, norms, order, spans, rows; in float16 the tiles are the largest weights [3 N].

    ``own`` must bear the label of its anchor.
    """
    if embeddings.dtype not in DTYPES:
        raise TypeError(f"embeddings must be float16, bfloat16 or float32 on triton, got {embeddings.dtype}")
    call = PairCall.of(terms, constants, selection, closeness, precision_of(embeddings))
    anchors, width = embeddings.shape
    total = anchors + (0 if ref_embeddings is None else ref_embeddings.shape[0])
    device = embeddings.device
    units = torch.empty(total, width, dtype=embeddings.dtype, device=device)
    norms = torch.empty(total, dtype=torch.float32, device=device)
    order = torch.empty(total, dtype=torch.int64, device=device)
    spans = torch.empty(3, total, dtype=torch.int32, device=device)

    order_by_label(labels, ref_labels, own, order, spans)
    unit_rows(embeddings, order[:anchors], units[:anchors], norms[:anchors])
    if ref_embeddings is not None:
        unit_rows(ref_embeddings, order[anchors:], units[anchors:], norms[anchors:])
    units = as_multiplied(units)
    found = pair_statistics(
        call, *_sides(call, units, spans, anchors), row, order, norms, _longest(norms, anchors),
        keep and embeddings.dtype == torch.float16,
    )  # fmt: skip
    return found.statistics, units, norms, order, spans, found.rows, found.bounds.view(-1)


def pair_backward(
    grad_statistics: Tensor,
    units: Tensor,
    norms: Tensor,
    order: Tensor,
    spans: Tensor,
    rows: Tensor,
    tiles: Tensor,
    terms: str,
    constants: Sequence[float],
    selection: Sequence[float],
    closeness: int,
    need_anchors: bool,
    need_candidates: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and of candidates, in the input's dtype and order; empty where not needed."""
    call = PairCall.of(terms, constants, selection, closeness, precision_of(units))
    anchors = rows.shape[1]
    grads = sorted_gradients(grad_statistics, order, norms, _longest(norms, anchors), anchors)
    unscale = None
    if units.dtype == torch.float16:
        largest = (
            (tiles.view(3, anchors) * grads.abs()).sum(0).nan_to_num(0, 0, 0).amax().clamp_min(2.0**-100)
        )
        grads, unscale = grads * (HALF_SCALE / largest), largest / HALF_SCALE

    anchor_grads: Tensor | None = None
    candidate_grads: Tensor | None = None
    sides = _sides(call, units, spans, anchors)
    need_candidates = need_candidates and sides[1] is not None
    tile = configs.row_owner_tile(
        configs.arch(units), units.dtype, units.shape[1], call.precision, call.light
    )
    if tile is None:
        anchor_grads, candidate_grads = pair_block_gradients(
            call, *sides, rows, grads, need_anchors, need_candidates
        )
    else:
        if need_anchors:
            anchor_grads = pair_row_gradients(call, *sides, rows, grads, True, tile)
        if need_candidates:
            candidate_grads = pair_row_gradients(call, *sides, rows, grads, False, tile)

    def finish(found: Tensor | None, part: slice) -> Tensor:
        if found is None:
            return units.new_empty(0, units.shape[1])
        return row_gradients(found, units[part], norms[part], order[part], unscale)

    return finish(anchor_grads, slice(0, anchors)), finish(candidate_grads, slice(anchors, None))


def _sides(call: PairCall, units: Tensor, spans: Tensor, anchors: int) -> tuple[Side, Side | None]:
    """Anchors and candidates; None where the anchors are compared with each other."""
    squares = None if call.closeness == INNER.value else squared_lengths(units)

    def side(part: slice) -> Side:
        return Side(units[part], None if squares is None else squares[part], spans[:, part])

    return side(slice(0, anchors)), side(slice(anchors, None)) if len(units) > anchors else None


def _longest(norms: Tensor, anchors: int) -> Tensor:
    """The largest norm of the candidates, NaN or infinite where one of them is not finite."""
    return (norms[anchors:] if len(norms) > anchors else norms).amax()
