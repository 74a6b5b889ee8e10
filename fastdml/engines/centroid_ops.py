"""The centroid engine's operators: schema and shape inference; implementations live with the backends.

All are opaque and functional, a set for each backend. They take ``rows`` [B, D] and ``points`` [P, D], as
they are compared, of the accumulator dtype, and compare by Euclidean distance. ``product`` is the dtype that
products may be made in, sums of which are kept in the accumulator dtype all the same.

``nearest_others`` returns [B, k], int64: of every row the k nearest points of another label (``labels`` [B],
``point_labels`` [P], int64), the nearest first, equals in any order; -1 where there are fewer. A row or point
that is not finite is near to none.

``hinge_sums`` returns ``sums`` and ``counts`` [B], of the accumulator dtype: over all points but the row's
own (``own`` [B], int64 index; -1: none) that are nearer than ``limits`` [B], the sum of ``limit - distance``
and how many those are. A row that is not finite makes its own sum NaN, a point those of all rows.
``hinge_gradients`` takes the gradient of ``sums`` and returns those of rows and of points; [0, D] where not
needed.

``listed_distances`` returns [B, S], the distance of every row to the points in ``listed`` [B, S], int64,
computed from differences; 0 where -1. ``listed_gradients`` takes their gradient and the distances, and
returns those of rows and of points, 0 from a distance of 0; [0, D] where not needed.

``class_sums`` returns [C, D] of ``dtype``, float32 or float64: the sum of the rows of every label, in an
order that depends on nothing else; labels outside [0, C) are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

BACKENDS = ("triton", "cuda", "cpu", "blocked")
SCHEMAS = {
    "nearest_others": (
        "(Tensor rows, Tensor points, Tensor labels, Tensor point_labels, int k, ScalarType product) -> "
        "Tensor"
    ),
    "hinge_sums": (
        "(Tensor rows, Tensor points, Tensor own, Tensor limits, ScalarType product) -> "
        "(Tensor sums, Tensor counts)"
    ),
    "hinge_gradients": (
        "(Tensor grad, Tensor rows, Tensor points, Tensor own, Tensor limits, ScalarType product, "
        "bool need_rows, bool need_points) -> (Tensor, Tensor)"
    ),
    "listed_distances": "(Tensor rows, Tensor points, Tensor listed) -> Tensor",
    "listed_gradients": (
        "(Tensor grad, Tensor rows, Tensor points, Tensor listed, Tensor distances, "
        "bool need_rows, bool need_points) -> (Tensor, Tensor)"
    ),
    "class_sums": "(Tensor rows, Tensor labels, int classes, ScalarType dtype) -> Tensor",
}
"""By the name of the operator; that of a backend is ``<name>_<backend>``."""

_library = torch.library.Library("fastdml", "FRAGMENT")
for _backend in BACKENDS:
    for _name, _schema in SCHEMAS.items():
        _library.define(f"{_name}_{_backend}{_schema}")


def _gradients(rows: Tensor, points: Tensor, need_rows: bool, need_points: bool) -> tuple[Tensor, Tensor]:
    return (
        rows.new_empty(rows.shape if need_rows else (0, rows.shape[1])),
        points.new_empty(points.shape if need_points else (0, points.shape[1])),
    )


def _make_fakes(backend: str) -> None:
    @torch.library.register_fake(f"fastdml::nearest_others_{backend}", lib=_library)
    def _(
        rows: Tensor, points: Tensor, labels: Tensor, point_labels: Tensor, k: int, product: torch.dtype
    ) -> Tensor:
        return rows.new_empty(rows.shape[0], k, dtype=torch.int64)

    @torch.library.register_fake(f"fastdml::hinge_sums_{backend}", lib=_library)
    def _(
        rows: Tensor, points: Tensor, own: Tensor, limits: Tensor, product: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return rows.new_empty(rows.shape[0]), rows.new_empty(rows.shape[0])

    @torch.library.register_fake(f"fastdml::hinge_gradients_{backend}", lib=_library)
    def _(
        grad: Tensor, rows: Tensor, points: Tensor, own: Tensor, limits: Tensor, product: torch.dtype,
        need_rows: bool, need_points: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return _gradients(rows, points, need_rows, need_points)

    @torch.library.register_fake(f"fastdml::listed_distances_{backend}", lib=_library)
    def _(rows: Tensor, points: Tensor, listed: Tensor) -> Tensor:
        return rows.new_empty(listed.shape)

    @torch.library.register_fake(f"fastdml::listed_gradients_{backend}", lib=_library)
    def _(
        grad: Tensor, rows: Tensor, points: Tensor, listed: Tensor, distances: Tensor,
        need_rows: bool, need_points: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return _gradients(rows, points, need_rows, need_points)

    @torch.library.register_fake(f"fastdml::class_sums_{backend}", lib=_library)
    def _(rows: Tensor, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        return rows.new_empty(classes, rows.shape[1], dtype=dtype)


for _backend in BACKENDS:
    _make_fakes(_backend)
