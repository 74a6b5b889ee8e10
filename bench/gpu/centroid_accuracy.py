"""The centroid engine's operators and FAT on every fused backend, against the dense form in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.gpu.centroid_fat import fat_accuracy
from bench.gpu.proof import Setting, require, require_as_accurate
from bench.gpu.rounding import product_of, rounded_distances
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others


class CentroidBatch(NamedTuple):
    """Rows with labels, one point of every label, and how many of the nearest are wanted."""

    rows: Tensor
    points: Tensor
    labels: Tensor
    k: int

    def cast(self, dtype: torch.dtype) -> CentroidBatch:
        """The batch in another dtype."""
        return self._replace(rows=self.rows.to(dtype), points=self.points.to(dtype))

    @property
    def listed(self) -> Tensor:
        """[B, 6]: the own point of every row, or none; one point for all; others, one of them twice."""
        own, count = self.labels, len(self.points)
        columns = [own, own * 0, *((own + step) % count for step in (1, 3, 1, 7))]
        return torch.stack(columns, dim=1)


def centroid_accuracy(setting: Setting, backend: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every batch, with products of every dtype where there are any; then FAT."""
    for name in batches(setting):
        yield f"{name}, sums and lists", partial(_sums_and_lists, setting, backend, name)
        for dtype in setting.dtypes:
            yield f"{name}, hinges, {dtype} products", partial(_hinges, setting, backend, name, dtype)
            yield f"{name}, nearest, {dtype} products", partial(_nearest, setting, backend, name, dtype)
    yield from fat_accuracy(setting, backend)


def batches(setting: Setting) -> dict[str, Callable[[], CentroidBatch]]:
    """Batches by name: widths of all tiles, sizes beside the tiles', several blocks, long segments."""
    tiny, device = setting.tiny, setting.device
    batch = partial(_batch, device=device)
    widths = (5, 40) if tiny else (5, 16, 40, 64, 100, 128, 200, 256, 300, 512, 520, 768, 1024)
    found: dict[str, Callable[[], CentroidBatch]] = {
        f"width {width}": partial(batch, 60 if tiny else 300, width, 40 if tiny else 400) for width in widths
    }
    sizes: tuple[int, ...] = (1, 33) if tiny else (1, 2, 31, 33, 127, 128, 129, 1000, 4097)
    found |= {f"samples {n}": partial(batch, n, 48, 60) for n in sizes}
    sizes = (2, 17) if tiny else (2, 15, 16, 17, 127, 129, 1000, 20_000)
    found |= {f"points {n}": partial(batch, 70, 48, n) for n in sizes}
    ranks = (1, 40) if tiny else (1, 8, 9, 32, 33, 64, 65, 200)
    found |= {f"{k} nearest": partial(batch, 50, 64, 90 if tiny else 3000, k) for k in ranks}
    found |= {
        "several blocks": partial(batch, *((90, 24, 50) if tiny else (5000, 128, 6000))),
        "long segments": partial(batch, *((200, 24, 3) if tiny else (20_000, 200, 7))),
        "classes elsewhere": partial(batch, 60, 40, 30, absent=3),
        "far from the origin": partial(batch, 60, 40, 30, offset=5.0),
    }
    return found


def _batch(
    samples: int, width: int, count: int, k: int = 5, *, absent: int = 0, offset: float = 0.3, device: str
) -> CentroidBatch:
    """In float64; every ``absent``-th sample is of a class that is not here."""
    generator = torch.Generator().manual_seed(1000 * samples + width + count)
    drawn: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    rows = torch.randn(samples, width, **drawn) + offset
    points = torch.randn(count, width, **drawn) * 0.7 + offset
    labels = torch.randint(count, (samples,), generator=generator)
    if absent:
        labels[::absent] = -1
    return CentroidBatch(rows.to(device), points.to(device), labels.to(device), k)


def _sums_and_lists(setting: Setting, backend: str, name: str) -> str:
    """Which compute in float32, on every backend."""
    batch = batches(setting)[name]().cast(torch.float32)

    def gather(batch: CentroidBatch, backend: str) -> dict[str, Tensor]:
        return {**_gather_sums(batch, backend), **_gather_lists(batch, backend)}

    truth = gather(batch.cast(torch.float64), "reference")
    return require_as_accurate(gather(batch, backend), gather(batch, "reference"), truth)


def _gather_sums(batch: CentroidBatch, backend: str) -> dict[str, Tensor]:
    rows, count = batch.rows.detach().clone().requires_grad_(), len(batch.points)
    with fastdml.use_backend(backend):
        sums = class_sums(rows, batch.labels, count)
        wide = class_sums(batch.rows, batch.labels, count, torch.float64)
        (gradient,) = torch.autograd.grad(sums, rows, _upstream(sums))
    return {"sums": sums.detach(), "float64 sums": wide, "sums, gradient": gradient}


def _gather_lists(batch: CentroidBatch, backend: str) -> dict[str, Tensor]:
    leaves = [values.detach().clone().requires_grad_() for values in (batch.rows, batch.points)]
    with fastdml.use_backend(backend):
        found = listed_distances(leaves[0], leaves[1], batch.listed)
        gradients = torch.autograd.grad(found, leaves, _upstream(found))
    return {"lists": found.detach(), "lists, of rows": gradients[0], "lists, of points": gradients[1]}


Hinges = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of rows, points and limits the sums [B]."""


def _hinges(setting: Setting, backend: str, name: str, dtype: str) -> str:
    batch = batches(setting)[name]().cast(torch.float32)
    product = product_of(backend, dtype)
    limits = undisputed_limits(batch, product)

    def fused(rows: Tensor, points: Tensor, limits: Tensor) -> Tensor:
        with fastdml.use_backend(backend):
            return hinge_sums(rows, points, batch.labels, limits, product=getattr(torch, dtype))

    def exact(rows: Tensor, points: Tensor, limits: Tensor) -> Tensor:
        with fastdml.use_backend("reference"):
            return hinge_sums(rows, points, batch.labels, limits)

    found, plain = (_gather_hinges(batch, limits, how) for how in (fused, partial(_plain, batch, product)))
    return require_as_accurate(found, plain, _gather_hinges(batch.cast(torch.float64), limits, exact))


def undisputed_limits(batch: CentroidBatch, product: torch.dtype) -> Tensor:
    """[B], float32: in the widest gap near the middle, so that no rounding error settles what is within."""
    exact = batch.cast(product).cast(torch.float64)
    count = len(exact.points)
    apart = rounded_distances(exact.rows, exact.points, torch.float64).sort(dim=1).values
    middle = apart[:, count // 3 : 2 * count // 3 + 2]
    at = middle.diff(dim=1).argmax(dim=1, keepdim=True)
    return ((middle.gather(1, at) + middle.gather(1, at + 1)) / 2).squeeze(1).float()


def _plain(
    batch: CentroidBatch, product: torch.dtype, rows: Tensor, points: Tensor, limits: Tensor
) -> Tensor:
    """Hinge sums over all distances."""
    slack = limits[:, None] - rounded_distances(rows, points, product)
    own = batch.labels[:, None] == torch.arange(len(points), device=points.device)
    return F.relu(slack).masked_fill(own, 0).sum(dim=1)


def _gather_hinges(batch: CentroidBatch, limits: Tensor, compute: Hinges) -> dict[str, Tensor]:
    given = (batch.rows, batch.points, limits.to(batch.rows.dtype))
    leaves = [values.detach().clone().requires_grad_() for values in given]
    sums = compute(*leaves)
    names = ("hinges, of rows", "hinges, of points", "hinges, of limits")
    gradients = torch.autograd.grad(sums, leaves, _upstream(sums))
    return {"hinges": sums.detach(), **dict(zip(names, gradients, strict=True))}


def _upstream(values: Tensor) -> Tensor:
    """Gradients that differ from number to number, in sign too."""
    return torch.linspace(-0.4, 1.1, values.numel(), device=values.device).to(values).view(values.shape)


def _nearest(setting: Setting, backend: str, name: str, dtype: str) -> str:
    """Judged by the distances reached: of points that are almost as near either will do."""
    batch = batches(setting)[name]().cast(torch.float32)
    rounded = batch.cast(product_of(backend, dtype)).cast(torch.float32)
    exact = batch.cast(torch.float64)
    found = _find(batch, backend, getattr(torch, dtype))
    require_others(found, batch)
    plain, truth = (_find(one, "reference") for one in (rounded, exact))
    reached = [{"distances": _reached(exact, chosen)} for chosen in (found, plain, truth)]
    return require_as_accurate(reached[0], reached[1], reached[2])


def _find(batch: CentroidBatch, backend: str, product: torch.dtype | None = None) -> Tensor:
    names = torch.arange(len(batch.points), device=batch.points.device)
    with fastdml.use_backend(backend):
        return nearest_others(batch.rows, batch.points, batch.labels, names, batch.k, product=product)


def require_others(found: Tensor, batch: CentroidBatch) -> None:
    """Fails where one of the nearest is a row's own point, no point at all, or named twice."""
    require((found < len(batch.points)).all(), "a point beyond the last")
    require(((found != batch.labels[:, None]) | (found < 0)).all(), "a row's own point")
    ordered = found.sort(dim=1).values
    again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    require(not again.any(), "a point named twice")


def _reached(batch: CentroidBatch, found: Tensor) -> Tensor:
    """[B, k], the distances to the points found; infinite where there is none."""
    with fastdml.use_backend("reference"):
        apart = listed_distances(batch.rows, batch.points, found)
    return apart.masked_fill(found < 0, torch.inf)
