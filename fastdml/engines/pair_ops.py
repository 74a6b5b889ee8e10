"""The pair engine's operators: schema and shape inference; implementations live with the backends.

Both operators are opaque and functional, one pair for each native backend. The forward returns, beside the
losses, all that the backward reads:

==========  ==============  ==============================================================================
``losses``  [N]             loss of every anchor, in the order of the input, accumulator dtype
``units``   [N + M, D]      unit rows sorted by label, anchors first, then candidates; M = 0 for self-pairs
                            (cuda scales 16-bit rows by a power of two instead, which rounds nothing)
``norms``   [N + M]         their L2 norms before normalisation, accumulator dtype
``order``   [N + M], int64  the input row of every sorted row, counted within anchors or candidates
``spans``   [2, N + M],     start and end of the positives of every sorted row: among the sorted candidates
            int32           for an anchor, among the sorted anchors for a candidate
``rows``    [4, N]          what the rule's weights read of every sorted anchor, accumulator dtype
``tiles``   [T]             similarities kept for the backward where a backend gains by it, else empty
==========  ==============  ==============================================================================

The accumulator dtype is float64 for float64 input and float32 for all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORWARD_SCHEMA = (
    "(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, str rule, "
    "float[] constants, bool keep) -> (Tensor losses, Tensor units, Tensor norms, Tensor order, "
    "Tensor spans, Tensor rows, Tensor tiles)"
)
BACKWARD_SCHEMA = (
    "(Tensor grad_losses, Tensor units, Tensor norms, Tensor order, Tensor spans, Tensor rows, Tensor tiles, "
    "str rule, float[] constants, bool need_anchors, bool need_candidates) -> (Tensor, Tensor)"
)
BACKENDS = ("cpu", "triton", "cuda")

# The cpu backend keeps all similarities from forward to backward where they fit this many elements (12 MB of
# float32), else none. csrc/cpu/pair_engine.cpp holds the same numbers.
CPU_KEPT_BUDGET = 3 << 20
CPU_NARROW_BLOCK = 256
CPU_WIDE_BLOCK, CPU_WIDE_FROM = 512, 4096
CPU_ROW_ALIGNMENT = 16

_library = torch.library.Library("fastdml", "DEF")
for _backend in BACKENDS:
    _library.define(f"pair_forward_{_backend}{FORWARD_SCHEMA}")
    _library.define(f"pair_backward_{_backend}{BACKWARD_SCHEMA}")


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over pairs are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def kept_elements(anchors: int, candidates: int, self_pairs: bool) -> int:
    """Length of ``tiles`` on the cpu backend: the similarities that its forward leaves for its backward."""
    rows, columns = _block_side(anchors), _block_side(candidates)
    row_blocks, column_blocks = _divide_up(anchors, rows), _divide_up(candidates, columns)
    pairs = row_blocks * (row_blocks + 1) // 2 if self_pairs else row_blocks * column_blocks
    elements = pairs * rows * columns
    return elements if elements <= CPU_KEPT_BUDGET else 0


def _block_side(count: int) -> int:
    blocks = max(1, _divide_up(count, CPU_NARROW_BLOCK if count < CPU_WIDE_FROM else CPU_WIDE_BLOCK))
    return _divide_up(_divide_up(count, blocks), CPU_ROW_ALIGNMENT) * CPU_ROW_ALIGNMENT


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)


def _make_fakes(backend: str) -> None:
    @torch.library.register_fake(f"fastdml::pair_forward_{backend}", lib=_library)
    def _(
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        rule: str,
        constants: list[float],
        keep: bool,
    ) -> tuple[Tensor, ...]:
        anchors, width = embeddings.shape
        candidates = 0 if ref_embeddings is None else ref_embeddings.shape[0]
        total = anchors + candidates
        acc = accumulator(embeddings.dtype)
        stored, kept = embeddings.dtype, 0
        if backend == "cpu":
            stored = acc
            kept = kept_elements(anchors, candidates or anchors, ref_embeddings is None) if keep else 0
        return (
            embeddings.new_empty(anchors, dtype=acc),
            embeddings.new_empty(total, width, dtype=stored),
            embeddings.new_empty(total, dtype=acc),
            labels.new_empty(total, dtype=torch.int64),
            labels.new_empty(2, total, dtype=torch.int32),
            embeddings.new_empty(4, anchors, dtype=acc),
            embeddings.new_empty(kept, dtype=acc),
        )

    @torch.library.register_fake(f"fastdml::pair_backward_{backend}", lib=_library)
    def _(
        grad_losses: Tensor,
        units: Tensor,
        norms: Tensor,
        order: Tensor,
        spans: Tensor,
        rows: Tensor,
        tiles: Tensor,
        rule: str,
        constants: list[float],
        need_anchors: bool,
        need_candidates: bool,
    ) -> tuple[Tensor, Tensor]:
        anchors = rows.shape[1]
        candidates = units.shape[0] - anchors
        width = units.shape[1]
        return (
            units.new_empty(anchors if need_anchors else 0, width),
            units.new_empty(candidates if need_candidates else 0, width),
        )


for _backend in BACKENDS:
    _make_fakes(_backend)
