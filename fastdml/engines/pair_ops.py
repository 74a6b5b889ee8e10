"""The pair engine's operators: schema and shape inference; implementations live with the backends.

Both operators are opaque and functional, one pair for each native backend. The forward takes embeddings [N,
D] and labels [N] int64, with candidates [M, D] and [M] or without; ``own`` [N] int64, the candidate that each
anchor itself is (-1: none; without candidates every anchor is its own); ``row`` [N] in the accumulator dtype,
one number of each anchor for the terms (none: 0); the terms' name and constants (:mod:`fastdml.rules.terms`),
the four constants of a selection (:mod:`fastdml.rules.selection`) and the code of the closeness
(:mod:`fastdml.rules.closeness`).

It returns

==============  ==============  ==========================================================================
``statistics``  [8, N]          the first eight of :class:`fastdml.rules.PairStatistics`, in their order,
                                anchors in the order of the input, accumulator dtype
``units``       [N + M, D]      rows sorted by label, anchors first, then candidates (M = 0 for self-pairs),
                                of length one where the closeness normalises (cuda scales 16-bit rows by a
                                power of two instead, which rounds nothing)
``norms``       [N + M]         their L2 norms before that, accumulator dtype
``order``       [N + M], int64  the input row of every sorted row, counted within anchors or candidates
``spans``       [3, N + M],     start and end of the rows of the same label on the other side: among the
                int32           sorted candidates for an anchor, among the sorted anchors for a candidate;
                                then, for an anchor, the sorted candidate that it is itself, or -1 (of a
                                candidate: -1)
``rows``        [4, N]          of every sorted anchor, accumulator dtype: thresholds of its negatives and
                                of its positives, the row of its negatives' terms and of its positives'
``tiles``       [T]             closeness kept for the backward where a backend gains by it, else empty
==============  ==============  ==========================================================================

The backward takes ``grad_statistics`` [3, N], the gradients of ``negative_sum``, ``positive_sum`` and
``positive_second`` in the order of the input. A row that is not finite makes its own sums NaN and its own
gradient, a candidate those of all anchors, by adding ``0 * norm``: comparisons with NaN are false, so a
selection would else leave it out in silence.

The accumulator dtype is float64 for float64 input and float32 for all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.backends.dtypes import accumulator

STATISTICS = 8
GRADIENTS = 3
FORWARD_SCHEMA = (
    "(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? own, "
    "Tensor? row, str terms, float[] constants, float[] selection, int closeness, bool keep) -> "
    "(Tensor statistics, Tensor units, Tensor norms, Tensor order, Tensor spans, Tensor rows, Tensor tiles)"
)
BACKWARD_SCHEMA = (
    "(Tensor grad_statistics, Tensor units, Tensor norms, Tensor order, Tensor spans, Tensor rows, "
    "Tensor tiles, str terms, float[] constants, float[] selection, int closeness, bool need_anchors, "
    "bool need_candidates) -> (Tensor, Tensor)"
)
BACKENDS = ("cpu", "triton", "cuda")

# The cpu backend keeps all closeness from forward to backward where it fits this many elements (12 MB of
# float32), else none. csrc/cpu/pair_engine.cpp holds the same numbers.
CPU_KEPT_BUDGET = 3 << 20
CPU_NARROW_BLOCK = 256
CPU_WIDE_BLOCK, CPU_WIDE_FROM = 512, 4096
CPU_ROW_ALIGNMENT = 16

_library = torch.library.Library("fastdml", "DEF")
for _backend in BACKENDS:
    _library.define(f"pair_forward_{_backend}{FORWARD_SCHEMA}")
    _library.define(f"pair_backward_{_backend}{BACKWARD_SCHEMA}")


def kept_elements(anchors: int, candidates: int, self_pairs: bool) -> int:
    """Length of ``tiles`` on the cpu backend: what its forward leaves for its backward."""
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
        own: Tensor | None,
        row: Tensor | None,
        terms: str,
        constants: list[float],
        selection: list[float],
        closeness: int,
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
            embeddings.new_empty(STATISTICS, anchors, dtype=acc),
            embeddings.new_empty(total, width, dtype=stored),
            embeddings.new_empty(total, dtype=acc),
            labels.new_empty(total, dtype=torch.int64),
            labels.new_empty(3, total, dtype=torch.int32),
            embeddings.new_empty(4, anchors, dtype=acc),
            embeddings.new_empty(kept, dtype=acc),
        )

    @torch.library.register_fake(f"fastdml::pair_backward_{backend}", lib=_library)
    def _(
        grad_statistics: Tensor,
        units: Tensor,
        norms: Tensor,
        order: Tensor,
        spans: Tensor,
        rows: Tensor,
        tiles: Tensor,
        terms: str,
        constants: list[float],
        selection: list[float],
        closeness: int,
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
