"""Statistics and gradients of the proxy engine on every fused backend, against the dense form in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.gpu.proof import Setting, require_as_accurate
from bench.gpu.rounding import rounded, with_rounded_gradient
from fastdml.engines.proxy import proxy_statistics
from fastdml.rules import Centres, ProxyStatistics

COLUMNS = Centres(3, 0.1, columns=True)
"""As SoftTriple compares and stores centres."""


class ProxyBatch(NamedTuple):
    """Samples as they are compared, against the centres of classes."""

    rows: Tensor
    centres: Tensor
    labels: Tensor
    how: Centres
    scale: float
    spread: bool
    """Whether the distances between the centres of a class are summed too."""

    def cast(self, rows: torch.dtype, centres: torch.dtype) -> ProxyBatch:
        """The batch in other dtypes."""
        return self._replace(rows=self.rows.to(rows), centres=self.centres.to(centres))


def proxy_accuracy(setting: Setting, backend: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every batch, with products of every dtype and, in that dtype too, centres."""
    for name in batches(setting):
        for dtype in setting.dtypes:
            yield f"{name}, {dtype} products", partial(_products, setting, backend, name, dtype)
            if dtype != "float32":
                yield f"{name}, {dtype} centres", partial(_centres, setting, backend, name, dtype)


def batches(setting: Setting) -> dict[str, Callable[[], ProxyBatch]]:
    """Batches by name: widths of all tiles, sizes beside the tiles', several chunks, blocks and programs."""
    tiny = setting.tiny

    def batch(samples: int, width: int, classes: int, how: Centres = COLUMNS, absent: int = 0) -> ProxyBatch:
        return _batch(samples, width, classes, how, absent, setting.device)

    widths = (16, 40) if tiny else (16, 40, 64, 100, 128, 200, 256, 300, 512, 520, 768, 1024)
    found: dict[str, Callable[[], ProxyBatch]] = {
        f"width {width}": partial(batch, 60 if tiny else 300, width, 40 if tiny else 400) for width in widths
    }
    sizes: tuple[int, ...] = (1, 33) if tiny else (1, 2, 31, 33, 127, 128, 129, 1000, 4097)
    found |= {f"samples {n}": partial(batch, n, 48, 60) for n in sizes}
    sizes = (2, 17) if tiny else (2, 15, 16, 17, 127, 129, 1000, 20_000)
    for what, columns in (("rows", False), ("columns", True)):
        one = Centres(columns=columns)
        found |= {f"classes {n}, one centre, {what}": partial(batch, 70, 48, n, one) for n in sizes}
    classes = 20 if tiny else 200
    for per_class in (2, 5) if tiny else (2, 5, 10, 20, 37):
        found[f"{per_class} centres, soft"] = partial(batch, 150, 64, classes, Centres(per_class, 0.1))
        # Few, for the closest of two that are almost as close is settled by a rounding error.
        found[f"{per_class} centres, closest"] = partial(batch, 40, 64, 20, Centres(per_class))
    found |= {
        # Unit centres of one dimension would be equal, and their distance the root of a rounding error.
        "width 1": partial(batch, 60, 1, classes, COLUMNS._replace(normalised=False)),
        "several chunks": partial(batch, 40, 24, 90) if tiny else partial(batch, 700, 512, 12_000),
        "classes elsewhere": partial(batch, 60, 40, classes, COLUMNS, 3),
        "of any length": partial(batch, 60, 24, classes, Centres(2, 0.5, normalised=False)),
    }
    return found


def _batch(samples: int, width: int, classes: int, how: Centres, absent: int, device: str) -> ProxyBatch:
    """In float64; every ``absent``-th sample is of a class that is not here."""
    generator = torch.Generator().manual_seed(1000 * samples + width + classes)
    drawn: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    # Off centre, so that similarities spread over their range.
    rows = torch.randn(samples, width, **drawn) + 0.4
    centres = torch.randn(classes * how.per_class, width, **drawn) + 0.3
    labels = torch.randint(classes, (samples,), generator=generator)
    if absent:
        labels[::absent] = -1
    stored = centres.T.contiguous() if how.columns else centres
    rows = F.normalize(rows, dim=1) if how.normalised else rows
    scale = 20.0 if how.normalised else 1.5
    spread = how.per_class > 1 and how.normalised
    return ProxyBatch(rows.to(device), stored.to(device), labels.to(device), how, scale, spread)


def _products(setting: Setting, backend: str, name: str, dtype: str) -> str:
    """Judged by a dense form that rounds what products take, forward and backward."""
    batch = batches(setting)[name]().cast(torch.float32, torch.float32)
    product: torch.dtype = getattr(torch, dtype)
    if product == torch.float32 or backend != "triton":  # the others make their products in float32
        return _judge(batch, _gather(batch, _engine(backend)), _gather(batch, _engine("reference")))
    batch = batch._replace(spread=False)  # distances between centres are no products
    plain = _gather(batch, partial(_dense, product=product))
    return _judge(batch, _gather(batch, _engine(backend, product)), plain)


def _centres(setting: Setting, backend: str, name: str, dtype: str) -> str:
    """Centres as a loss stores them, and their gradient, in 16 bits; products in float32."""
    batch = batches(setting)[name]().cast(torch.float32, getattr(torch, dtype))
    return _judge(batch, _gather(batch, _engine(backend)), _gather(batch, _engine("reference")))


def _judge(batch: ProxyBatch, found: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> str:
    truth = _gather(batch.cast(torch.float64, torch.float64), _engine("reference"))
    # Similarities that are made anew, in sums of another order, move weights, their exponentials, so much.
    share = batch.scale * torch.finfo(torch.float32).eps
    return require_as_accurate(found, plain, truth, {name: share for name in found if "gradient" in name})


Compute = Callable[[ProxyBatch], ProxyStatistics]


def _gather(batch: ProxyBatch, compute: Compute) -> dict[str, Tensor]:
    """The statistics, and the gradients of an uneven weighting of them."""
    leaves = [values.detach().clone().requires_grad_() for values in (batch.rows, batch.centres)]
    found = compute(batch._replace(rows=leaves[0], centres=leaves[1]))
    total = leaves[0].new_zeros(())
    for statistic in found:
        # Upstream gradients that differ from sample to sample, in sign too.
        total = total + (statistic * torch.linspace(-0.4, 1.1, len(statistic)).to(statistic)).sum()
    gradients = torch.autograd.grad(total, leaves)
    named = {name: statistic.detach() for name, statistic in found._asdict().items()}
    return {**named, "gradient": gradients[0], "gradient of centres": gradients[1]}


def _engine(backend: str, product: torch.dtype | None = None) -> Compute:
    def compute(batch: ProxyBatch) -> ProxyStatistics:
        with fastdml.use_backend(backend):
            return proxy_statistics(
                batch.rows, batch.centres, batch.labels, batch.how,
                scale=batch.scale, spread=batch.spread, product=product,
            )  # fmt: skip

    return compute


def _dense(batch: ProxyBatch, product: torch.dtype) -> ProxyStatistics:
    """All similarities, in products whose factors are rounded: samples, unit centres, weights."""
    how = batch.how
    stored = batch.centres.T if how.columns else batch.centres
    stored = F.normalize(stored, dim=1) if how.normalised else stored
    rows, units = rounded(batch.rows, product), rounded(stored, product)
    similarities = with_rounded_gradient(rows @ units.T, product)
    pooled = how.pooled(similarities.unflatten(1, (-1, how.per_class)))
    own = batch.labels[:, None] == torch.arange(pooled.shape[1], device=pooled.device)
    return ProxyStatistics(
        (batch.scale * pooled).masked_fill(own, -math.inf).logsumexp(dim=1),
        torch.where(own, pooled, 0).sum(dim=1),
        pooled.sum(dim=1),
        pooled.new_empty(0),
    )
