"""Sizes of the centroid engine past 2^31: rows, points, sums, pairs, lists; the last are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.gpu.centroid_accuracy import CentroidBatch, require_others
from bench.gpu.overflow import ALLOWED, CHUNK, LAST, judge
from bench.gpu.proof import Setting, relative_error
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others

LIMIT = 2.5
"""Beyond every distance of unit vectors: rounding changes no sum by a whole hinge."""
NEAREST = 5


class Problem(NamedTuple):
    """Rows and points of length one in float32, and of each row the point that is its own."""

    rows: Tensor
    points: Tensor
    own: Tensor

    def of_rows(self, part: slice) -> Problem:
        """Some rows, in float64, and all points."""
        return Problem(self.rows[part].double(), self.points.double(), self.own[part])

    def of_points(self, first: int, count: int) -> Problem:
        """All rows and the points from ``first`` on, in float64."""
        own = self.own - first
        own = own.where((own >= 0) & (own < count), -1)
        return Problem(self.rows.double(), self.points[first : first + count].double(), own)


def centroid_overflow(setting: Setting, backend: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """One case a place where an index could overflow."""
    long, width = (600, 48) if setting.tiny else ((1 << 22) + 200, 512)
    samples, points, narrow = (200, 90, 8) if setting.tiny else (65536 + 72, 40_000, 64)
    for dtype in ("bfloat16", "float32"):
        yield f"B D, B = {long}, {dtype}", partial(_many_rows, setting, backend, long, width, dtype)
        yield f"P D, P = {long}, {dtype}", partial(_many_points, setting, backend, long, width, dtype)
        yield (
            f"B P, {samples} x {points}, {dtype}",
            partial(_pairs, setting, backend, samples, points, narrow, dtype),
        )
    yield f"B S, {long} x {width}", partial(_lists, setting, backend, long, width)
    yield f"sums, N D, N = {long}", partial(_sums_of_many, setting, backend, long, width)
    yield f"sums, C D, C = {long}", partial(_many_sums, setting, backend, long, width)


def _problem(setting: Setting, samples: int, count: int, width: int) -> Problem:
    """Rows of which some are near to all points and some far; the last one's own point is the last."""
    generator = torch.Generator(setting.device).manual_seed(samples + count)
    sides = []
    for size, least in ((samples, -1.0), (count, 0.0)):
        lean = torch.empty(size, 1, device=setting.device).uniform_(least, least + 2, generator=generator)
        side = torch.empty(size, width, device=setting.device).normal_(generator=generator).add_(lean)
        sides.append(F.normalize(side, dim=1, out=side))
    own = count - 1 - torch.arange(samples - 1, -1, -1, device=setting.device) % count
    return Problem(sides[0], sides[1], own)


def _many_rows(setting: Setting, backend: str, count: int, width: int, dtype: str) -> str:
    """Rows are independent, so the last ones can be recomputed alone."""
    problem = _problem(setting, count, LAST, width)
    found = _hinges(problem, backend, dtype, first=count - LAST)
    last = problem.of_rows(slice(count - LAST, count))
    truth = _hinges(last, "reference", dtype)
    errors = {name: relative_error(found[name][-LAST:], truth[name]) for name in ("sums", "gradient")}
    errors["points"] = relative_error(found["gradient of points"], truth["gradient of points"])
    errors["first gradients, which are zero"] = float(found["gradient"][:LAST].abs().max())
    del found
    errors["nearest"] = _farther(_nearest(problem, backend, dtype)[-LAST:], last)
    return judge(errors, ALLOWED[dtype])


def _many_points(setting: Setting, backend: str, count: int, width: int, dtype: str) -> str:
    """Sums over all points, a block at a time; the gradients of points do not depend on other points."""
    problem = _problem(setting, LAST, count, width)
    found = _hinges(problem, backend, dtype)
    whole = [_hinges(problem.of_points(first, CHUNK), "reference", dtype) for first in range(0, count, CHUNK)]
    errors = {
        name: relative_error(found[name], torch.stack([part[name] for part in whole]).sum(dim=0))
        for name in ("sums", "gradient")
    }
    starts = {"first": (whole[0], 0), "last": (whole[-1], count - LAST)}
    for name, (part, start) in starts.items():
        gradient = part["gradient of points"]
        exact = gradient[:LAST] if start == 0 else gradient[-LAST:]
        errors[f"{name} points"] = relative_error(found["gradient of points"][start : start + LAST], exact)
    del found, whole
    errors["nearest"] = _farther(_nearest(problem, backend, dtype), problem)
    return judge(errors, ALLOWED[dtype])


def _pairs(setting: Setting, backend: str, samples: int, count: int, width: int, dtype: str) -> str:
    """Everything, against plain PyTorch in float64, a block at a time."""
    problem = _problem(setting, samples, count, width)
    found = _hinges(problem, backend, dtype)
    truth = _hinges(problem.of_rows(slice(0, samples)), "blocked", dtype)
    errors = {name: relative_error(found[name], truth[name]) for name in found}
    errors |= {f"last, {name}": relative_error(found[name][-LAST:], truth[name][-LAST:]) for name in found}
    nearest = _nearest(problem, backend, dtype)
    for name, part in (("first", slice(0, LAST)), ("last", slice(samples - LAST, samples))):
        errors[f"{name} nearest"] = _farther(nearest[part], problem.of_rows(part))
    return judge(errors, ALLOWED[dtype])


def _hinges(problem: Problem, backend: str, dtype: str, first: int = 0) -> dict[str, Tensor]:
    """Sums of all rows, and gradients of the sum of those from ``first`` on."""
    rows, points = (values.detach().requires_grad_() for values in problem[:2])
    limits = rows.detach().new_full((len(rows),), LIMIT)
    with fastdml.use_backend(backend):
        sums = hinge_sums(rows, points, problem.own, limits, product=getattr(torch, dtype))
    gradients = torch.autograd.grad(sums[first:].sum(), (rows, points))
    return {"sums": sums.detach(), "gradient": gradients[0], "gradient of points": gradients[1]}


def _nearest(problem: Problem, backend: str, dtype: str) -> Tensor:
    names = torch.arange(len(problem.points), device=problem.points.device)
    with fastdml.use_backend(backend):
        return nearest_others(
            problem.rows, problem.points, problem.own, names, NEAREST, product=getattr(torch, dtype)
        )


def _farther(found: Tensor, problem: Problem) -> float:
    """How much farther than the nearest other points those found are, at most; the rows must be few."""
    rows, points, own = problem
    require_others(found, CentroidBatch(rows, points, own, found.shape[1]))
    pieces = [torch.cdist(rows.double(), piece.double()) for piece in points.split(CHUNK)]
    apart = torch.cat(pieces, dim=1).scatter_(1, own[:, None], torch.inf)
    truth = apart.topk(found.shape[1], dim=1, largest=False).values
    reached = apart.gather(1, found.clamp_min(0)).masked_fill(found < 0, torch.inf)
    return float((reached - truth).abs().max())


def _lists(setting: Setting, backend: str, count: int, length: int) -> str:
    """Lists so long that their entries are past 2^31, of narrow rows."""
    problem = _problem(setting, count, 2 * LAST, 16)
    listed = torch.arange(count * length, device=setting.device).remainder_(2 * LAST + 1).sub_(1)
    listed = listed.view(count, length)
    rows = problem.rows.requires_grad_()
    with fastdml.use_backend(backend):
        found = listed_distances(rows, problem.points, listed)
    (gradient,) = torch.autograd.grad(found[-LAST:].sum(), rows)
    last = problem.rows.detach()[-LAST:].double().requires_grad_()
    with fastdml.use_backend("reference"):
        truth = listed_distances(last, problem.points.double(), listed[-LAST:])
    (exact,) = torch.autograd.grad(truth.sum(), last)
    errors = {
        "last distances": relative_error(found.detach()[-LAST:], truth.detach()),
        "last gradients": relative_error(gradient[-LAST:], exact),
        "first gradients, which are zero": float(gradient[:LAST].abs().max()),
    }
    return judge(errors, ALLOWED["float32"])


def _sums_of_many(setting: Setting, backend: str, count: int, width: int) -> str:
    """Sums of so many rows, a class of which has many; a block at a time."""
    rows, _, labels = _problem(setting, count, LAST, width)
    with fastdml.use_backend(backend):
        found = {
            str(dtype): class_sums(rows, labels, LAST, dtype) for dtype in (torch.float32, torch.float64)
        }
    truth = rows.new_zeros(LAST, width, dtype=torch.float64)
    for part, named in zip(rows.split(CHUNK), labels.split(CHUNK), strict=True):
        truth += F.one_hot(named, LAST).double().T @ part.double()
    return judge({name: relative_error(sums, truth) for name, sums in found.items()}, ALLOWED["float32"])


def _many_sums(setting: Setting, backend: str, count: int, width: int) -> str:
    """Of so many classes, of which the first and the last have one row each, and the others none."""
    rows = _problem(setting, 2 * LAST, LAST, width).rows.requires_grad_()
    labels = torch.arange(2 * LAST, device=setting.device)
    labels[LAST:] += count - 2 * LAST
    with fastdml.use_backend(backend):
        found = class_sums(rows, labels, count)
    upstream = torch.zeros_like(found)
    upstream[-LAST:] = 2.0
    (gradient,) = torch.autograd.grad(found, rows, upstream)
    found = found.detach()
    errors = {
        "sums": relative_error(found[labels], rows.detach()),
        "others, which are zero": float(found[LAST:-LAST].norm()),
        "last gradients": relative_error(gradient[LAST:], torch.full_like(gradient[LAST:], 2.0)),
        "first gradients, which are zero": float(gradient[:LAST].abs().max()),
    }
    return judge(errors, ALLOWED["float32"])
