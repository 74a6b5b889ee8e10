"""Samples and centroids that the centroid engine must survive, and what a backend makes of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others
from pair_batches import assert_as_accurate


class CentroidCase(NamedTuple):
    """Rows with labels in [0, P), and one point of every label, in float64."""

    rows: Tensor
    points: Tensor
    labels: Tensor
    k: int = 3

    def to(self, dtype: torch.dtype) -> CentroidCase:
        """The case with its rows and points rounded to a dtype."""
        return self._replace(rows=self.rows.to(dtype), points=self.points.to(dtype))

    def on(self, device: str) -> CentroidCase:
        """The case with its tensors on a device."""
        rows, points, labels = (tensor.to(device) for tensor in self[:3])
        return self._replace(rows=rows, points=points, labels=labels)

    @property
    def listed(self) -> Tensor:
        """[B, 4], int64: points of every row, one of them named twice, some missing."""
        count = len(self.points)
        start = torch.arange(len(self.rows), device=self.rows.device)[:, None] * 7
        listed = (start + torch.tensor([0, 1, 0, 5], device=start.device)) % count
        return listed.where((start + torch.arange(4, device=start.device)) % 11 != 3, -1)

    @property
    def limits(self) -> Tensor:
        """[B]: near the middle of the distances of every row, so that some points are within."""
        away = self.rows.double().unsqueeze(1) - self.points.double().unsqueeze(0)
        return (away.norm(dim=2).median(dim=1).values + 0.01).to(self.rows.dtype)


def make_case(name: str) -> CentroidCase:
    """One of ``CASES``, the same at every call."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))

    def made(samples: int, width: int, classes: int, offset: float = 0.4, k: int = 3) -> CentroidCase:
        rows = torch.randn(samples, width, generator=generator, dtype=torch.float64) + offset
        points = torch.randn(classes, width, generator=generator, dtype=torch.float64) * 0.7 + offset
        return CentroidCase(rows, points, torch.randint(classes, (samples,), generator=generator), k)

    if name == "plain":
        return made(60, 24, 33)
    if name == "unit":
        case = made(60, 24, 33, k=5)
        return case._replace(rows=F.normalize(case.rows, dim=1), points=F.normalize(case.points, dim=1))
    if name == "many points":
        return made(21, 8, 1900, k=7)
    if name == "many rows":
        return made(1400, 8, 9)
    if name == "wide":
        return made(12, 600, 20)
    if name == "one column":
        return made(30, 1, 12, k=1)
    if name == "one row":
        return made(1, 8, 40)
    if name == "one point":
        return made(9, 8, 1)
    if name == "fewer others than k":
        return made(20, 8, 4, k=6)
    if name == "many neighbours":
        return made(30, 8, 300, k=70)
    if name == "elsewhere":  # some rows are of no class
        case = made(40, 16, 20)
        case.labels[::3] = -1
        return case
    if name == "far from the origin":
        return made(40, 16, 20, offset=5.0)
    if name == "duplicates":  # distances of 0, and equal ones
        case = made(40, 12, 20)
        case.points[1::2] = case.points[0::2]
        case.rows[:20] = case.points
        return case
    if name == "zero vectors":
        case = made(20, 12, 10)
        case.rows[[0, 5]] = 0
        case.points[[0, 9]] = 0
        return case
    raise KeyError(name)


CASES = (
    "plain",
    "unit",
    "many points",
    "many rows",
    "wide",
    "one column",
    "one row",
    "one point",
    "fewer others than k",
    "many neighbours",
    "elsewhere",
    "far from the origin",
    "duplicates",
    "zero vectors",
)


def values_and_gradients(
    case: CentroidCase, backend: str, *, product: torch.dtype | None = None
) -> dict[str, Tensor]:
    """What the differentiable operators give, and the gradients of an uneven weighting of it."""
    generator = torch.Generator().manual_seed(7)

    def upstream(values: Tensor) -> Tensor:
        weights = torch.rand(values.shape, generator=generator, dtype=torch.float64) - 0.3
        return weights.to(values)

    rows, points, limits = (
        values.detach().clone().requires_grad_() for values in (case.rows, case.points, case.limits)
    )
    found: dict[str, Tensor] = {}
    with fastdml.use_backend(backend):
        sums = class_sums(rows, case.labels, len(points))
        listed = listed_distances(rows, points, case.listed)
        hinges = hinge_sums(rows, points, case.labels, limits, product=product)
        for name, values, inputs in (
            ("class sums", sums, {"rows": rows}),
            ("listed distances", listed, {"rows": rows, "points": points}),
            ("hinge sums", hinges, {"rows": rows, "points": points, "limits": limits}),
        ):
            found[name] = values.detach()
            gradients = torch.autograd.grad(values, tuple(inputs.values()), upstream(values))
            found.update(
                {f"{name}, gradient of {what}": grad for what, grad in zip(inputs, gradients, strict=True)}
            )
    return found


def assert_all_as_accurate(
    found: dict[str, Tensor], plain: dict[str, Tensor], truth: dict[str, Tensor]
) -> None:
    """Fails unless each is as accurate as plain PyTorch."""
    assert found.keys() == truth.keys()
    for name, value in found.items():
        assert_as_accurate(value, plain[name], truth[name], name)


def neighbours(case: CentroidCase, backend: str, *, product: torch.dtype | None = None) -> Tensor:
    """[B, k], the nearest points of other labels, by a backend."""
    with fastdml.use_backend(backend):
        names = torch.arange(len(case.points), device=case.rows.device)
        return nearest_others(case.rows, case.points, case.labels, names, case.k, product=product)


def assert_are_nearest(found: Tensor, case: CentroidCase, tolerance: float) -> None:
    """Fails unless the points are others, named once, sorted, and no farther than the true nearest.

    Distances may exceed the true ones by ``tolerance`` of the largest, where roundings decide.
    """
    apart = (case.rows.double()[:, None] - case.points.double()[None]).norm(dim=2)
    scale = apart.max().item()
    own = torch.arange(len(case.points), device=apart.device)[None, :] == case.labels[:, None]
    truth = apart.masked_fill(own, torch.inf).sort(dim=1).values[:, : case.k]
    truth = F.pad(truth, (0, case.k - truth.shape[1]), value=torch.inf)
    assert torch.equal(found < 0, truth.isinf())
    assert (found != case.labels[:, None]).logical_or(found < 0).all()
    for row in found.tolist():
        named = [index for index in row if index >= 0]
        assert len(named) == len(set(named))
    reached = apart.gather(1, found.clamp_min(0))
    assert ((reached - truth)[found >= 0].abs() <= tolerance * scale).all()
