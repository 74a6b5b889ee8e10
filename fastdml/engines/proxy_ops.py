"""The proxy engine's operators: schema and shape inference; implementations live with the backends.

Both operators are opaque and functional, a pair for each backend. They take ``rows`` [B, D], the samples as
they are compared, in the accumulator dtype; ``centres`` [C K, D], or [D, C K] where ``columns``, as they are
stored, the K = ``per_class`` centres of a class together, of any dtype (on cpu that of the rows); ``labels``
[B] int64, -1 for a sample whose class is not here; ``shares`` [B, C] of the dtype of the rows, or none;
whether centres are ``normalised``; the ``scale`` of the similarities; ``gamma``, the temperature of the inner
softmax (0: the closest centre, the first of equals); and ``product``, the dtype that products may be made in,
sums of which are kept in the accumulator dtype all the same.

The forward returns ``others``, ``target`` and ``total`` [B], as :class:`fastdml.rules.ProxyStatistics` says,
and ``spread`` [C], or [0] unless asked for, all in the accumulator dtype; and ``norms`` [C K], the lengths of
the centres before normalisation, likewise (where they are not normalised only for the backend's own use).

The backward takes the gradients of the four ([0] for a spread that was not asked for), ``others`` and
``norms`` of the forward, and returns those of the rows, in the accumulator dtype, and of the centres, in
their own layout and dtype; [0, D] and [0, 0] where not needed.

A row that is not finite makes its own sums NaN, a centre those of all samples, by adding ``0 * length``:
comparisons with NaN are false, so a maximum would else pass over it in silence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.backends.dtypes import accumulator

BACKENDS = ("triton", "cuda", "cpu", "blocked")
_SETTINGS = "int per_class, bool columns, bool normalised, float scale, float gamma, ScalarType product"
FORWARD_SCHEMA = (
    f"(Tensor rows, Tensor centres, Tensor labels, Tensor? shares, {_SETTINGS}, bool spread) -> "
    "(Tensor others, Tensor target, Tensor total, Tensor spread, Tensor norms)"
)
BACKWARD_SCHEMA = (
    "(Tensor grad_others, Tensor grad_target, Tensor grad_total, Tensor grad_spread, Tensor rows, "
    f"Tensor centres, Tensor labels, Tensor? shares, Tensor others, Tensor norms, {_SETTINGS}, "
    "bool need_rows, bool need_centres) -> (Tensor, Tensor)"
)

_library = torch.library.Library("fastdml", "FRAGMENT")
for _backend in BACKENDS:
    _library.define(f"proxy_forward_{_backend}{FORWARD_SCHEMA}")
    _library.define(f"proxy_backward_{_backend}{BACKWARD_SCHEMA}")


def _make_fakes(backend: str) -> None:
    @torch.library.register_fake(f"fastdml::proxy_forward_{backend}", lib=_library)
    def _(
        rows: Tensor, centres: Tensor, labels: Tensor, shares: Tensor | None, per_class: int, columns: bool,
        normalised: bool, scale: float, gamma: float, product: torch.dtype, spread: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        acc = accumulator(rows.dtype)
        count = centres.shape[1 if columns else 0]
        of_sample = [rows.new_empty(rows.shape[0], dtype=acc) for _ in range(3)]
        of_class = rows.new_empty(count // per_class if spread else 0, dtype=acc)
        return (*of_sample, of_class, rows.new_empty(count, dtype=acc))

    @torch.library.register_fake(f"fastdml::proxy_backward_{backend}", lib=_library)
    def _(
        grad_others: Tensor, grad_target: Tensor, grad_total: Tensor, grad_spread: Tensor, rows: Tensor,
        centres: Tensor, labels: Tensor, shares: Tensor | None, others: Tensor, norms: Tensor, per_class: int,
        columns: bool, normalised: bool, scale: float, gamma: float, product: torch.dtype, need_rows: bool,
        need_centres: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return (
            rows.new_empty(rows.shape if need_rows else (0, rows.shape[1])),
            centres.new_empty(centres.shape if need_centres else (0, 0)),
        )


for _backend in BACKENDS:
    _make_fakes(_backend)
