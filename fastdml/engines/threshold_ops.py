"""The operators of the threshold statistics: schema and shape inference; implementations live beside them.

Both are opaque and functional, a pair for each backend. They take rows [N, D] and candidates ``refs`` [M, D]
(or none) as they are compared, in the accumulator dtype, with squared lengths, labels and ``own`` as in
:class:`fastdml.engines.sides.Sides`; ``thresholds`` [T] of the same dtype, in any order within an anchor, not
NaN; ``offsets`` [N + 1] int64, where those of each anchor start; and the code of the closeness.

The forward returns ``counts`` and ``sums``, each [T] float64: how many of the anchor's negatives are closer
than the threshold, and the sum of their closeness less the threshold. The backward takes the gradient of the
sums and returns those of the rows and of the candidates, [0, D] where not needed; squared lengths count as
functions of the rows where the closeness does not normalise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SIDES = (
    "Tensor rows, Tensor squares, Tensor labels, Tensor? refs, Tensor? ref_squares, Tensor? ref_labels, "
    "Tensor? own, Tensor thresholds, Tensor offsets, int closeness"
)
FORWARD_SCHEMA = f"({_SIDES}) -> (Tensor counts, Tensor sums)"
BACKWARD_SCHEMA = f"(Tensor grad_sums, {_SIDES}, bool need_rows, bool need_refs) -> (Tensor, Tensor)"
BACKENDS = ("triton", "cuda", "cpu", "blocked")

library = torch.library.Library("fastdml", "FRAGMENT")
for _backend in BACKENDS:
    library.define(f"threshold_forward_{_backend}{FORWARD_SCHEMA}")
    library.define(f"threshold_backward_{_backend}{BACKWARD_SCHEMA}")


def operator(direction: str, backend: str) -> Any:
    """The operator of a direction, "forward" or "backward"."""
    return getattr(torch.ops.fastdml, f"threshold_{direction}_{backend}").default


def _fake_forward(rows: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    thresholds = rest[6]
    return (
        thresholds.new_empty(thresholds.shape, dtype=torch.float64),
        thresholds.new_empty(thresholds.shape, dtype=torch.float64),
    )


def _fake_backward(grad_sums: Tensor, rows: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    refs, need_rows, need_refs = rest[2], *rest[-2:]
    width = rows.shape[1]
    candidates = len(refs) if refs is not None and need_refs else 0
    return rows.new_empty(len(rows) if need_rows else 0, width), rows.new_empty(candidates, width)


for _backend in BACKENDS:
    torch.library.register_fake(f"fastdml::threshold_forward_{_backend}", _fake_forward, lib=library)
    torch.library.register_fake(f"fastdml::threshold_backward_{_backend}", _fake_backward, lib=library)
