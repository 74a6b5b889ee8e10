"""Samples, centres and labels that the proxy engine must survive, and what a backend makes of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from fastdml.engines.proxy import proxy_statistics
from fastdml.rules import Centres
from pair_batches import assert_as_accurate


class ProxyCase(NamedTuple):
    """A batch against the centres of its classes, in float64."""

    rows: Tensor
    centres: Tensor
    labels: Tensor
    how: Centres
    scale: float
    spread: bool = False

    def to(self, dtype: torch.dtype, centres: torch.dtype | None = None) -> ProxyCase:
        """The case with its rows, and its centres, rounded to dtypes."""
        return self._replace(rows=self.rows.to(dtype), centres=self.centres.to(centres or dtype))

    def on(self, device: str) -> ProxyCase:
        """The case with its tensors on a device."""
        return self._replace(
            rows=self.rows.to(device), centres=self.centres.to(device), labels=self.labels.to(device)
        )


def make_case(name: str) -> ProxyCase:
    """One of ``CASES``, the same at every call."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))

    def made(
        samples: int, width: int, classes: int, how: Centres, scale: float = 20.0, spread: bool = False
    ) -> ProxyCase:
        rows = torch.randn(samples, width, generator=generator, dtype=torch.float64)
        # off centre, so that similarities spread over their range
        rows = F.normalize(rows + 0.4, dim=1) if how.normalised else rows
        count = classes * how.per_class
        centres = torch.randn(count, width, generator=generator, dtype=torch.float64) + 0.3
        labels = torch.randint(classes, (samples,), generator=generator)
        stored = centres.T.contiguous() if how.columns else centres
        return ProxyCase(rows, stored, labels, how, scale, spread)

    soft = Centres(5, 0.1, columns=True)
    if name == "soft":
        return made(40, 24, 30, soft, spread=True)
    if name == "soft, centres as rows":
        return made(40, 24, 30, Centres(3, 0.1), spread=True)
    if name == "hard":
        return made(40, 24, 30, Centres(4, 0.0, columns=True))
    if name == "one centre a class":
        return made(40, 24, 30, Centres())
    if name == "one centre a class, as columns":
        return made(33, 20, 31, Centres(columns=True), scale=64.0)
    if name == "many classes":
        return made(21, 8, 700, Centres(3, 0.2, columns=True), spread=True)
    if name == "many samples":
        return made(600, 8, 9, Centres(2, 0.2))
    if name == "wide":
        return made(10, 300, 12, Centres(2, 0.1, columns=True))
    if name == "one column":
        return made(12, 1, 8, Centres(2, 0.3))
    if name == "one sample":
        return made(1, 8, 5, soft)
    if name == "one class":
        return made(9, 8, 1, soft, spread=True)
    if name == "two centres in all":
        return made(9, 8, 2, Centres())
    if name == "elsewhere":  # the classes of some samples are not here
        case = made(40, 16, 20, soft)
        case.labels[::3] = -1
        return case
    if name == "of any length":
        return made(30, 12, 25, Centres(2, 0.5, normalised=False), scale=1.5)
    if name == "samples of any length":
        case = made(30, 12, 25, Centres(), scale=1.5)
        return case._replace(rows=case.rows * torch.rand(30, 1, generator=generator).double() * 9)
    if name == "merged centres":
        case = made(20, 12, 10, Centres(4, 0.1), spread=True)
        case.centres[1::4] = case.centres[0::4]
        case.centres[2::4] = case.centres[0::4] * 3
        return case
    if name == "zero vectors":
        case = made(20, 12, 10, Centres(2, 0.1), spread=True)
        case.rows[[0, 5]] = 0
        case.centres[[0, 1, 9]] = 0
        case.centres[[4, 7]] *= 3e-13 / case.centres[[4, 7]].norm(dim=1, keepdim=True)
        return case
    if name == "sharp":  # exponents far beyond float32
        return made(20, 12, 10, Centres(4, 0.002, columns=True), scale=300.0)
    raise KeyError(name)


CASES = (
    "soft",
    "soft, centres as rows",
    "hard",
    "one centre a class",
    "one centre a class, as columns",
    "many classes",
    "many samples",
    "wide",
    "one column",
    "one sample",
    "one class",
    "two centres in all",
    "elsewhere",
    "of any length",
    "samples of any length",
    "merged centres",
    "zero vectors",
    "sharp",
)


def statistics_and_gradients(
    case: ProxyCase, backend: str, *, product: torch.dtype | None = None, shares: Tensor | None = None
) -> dict[str, Tensor]:
    """The statistics, and the gradients of an uneven weighting of them in rows and centres."""
    generator = torch.Generator().manual_seed(7)
    rows = case.rows.detach().clone().requires_grad_()
    centres = case.centres.detach().clone().requires_grad_()
    with fastdml.use_backend(backend):
        found = proxy_statistics(
            rows, centres, case.labels, case.how,
            scale=case.scale, shares=shares, spread=case.spread, product=product,
        )  # fmt: skip
        total = rows.new_zeros(())
        for name, statistic in found._asdict().items():
            upstream = torch.rand(len(statistic), generator=generator, dtype=torch.float64) - 0.3
            # log of a sum over nothing: no gradient to ask for
            if name == "others" and case.centres.numel() // case.rows.shape[1] == case.how.per_class:
                statistic = torch.where(case.labels < 0, statistic, 0)
            total = total + (statistic * upstream.to(statistic)).sum()
        gradients = torch.autograd.grad(total, (rows, centres))
    return {
        **{name: statistic.detach() for name, statistic in found._asdict().items()},
        "gradient of rows": gradients[0],
        "gradient of centres": gradients[1],
    }


def assert_all_as_accurate(
    found: dict[str, Tensor], plain: dict[str, Tensor], truth: dict[str, Tensor], terms: int = 1
) -> None:
    """Fails unless each is finite where the truth is, and there as accurate as plain PyTorch.

    A gradient that is zero in truth is what rounding leaves of terms that cancel, of up to a scale of 20: how
    little that is in plain PyTorch is luck. So it is of a softmax over many ``terms``, whose rounding errors
    are allowed on top.
    """
    for name, value in found.items():
        finite = truth[name].isfinite()
        assert torch.equal(value.isfinite(), finite), name
        value, same_dtype, exact = value[finite], plain[name][finite], truth[name][finite]
        eps, largest = torch.finfo(same_dtype.dtype).eps, exact.abs().amax().item() if len(exact) else 0.0
        if name.startswith("gradient") and largest < 1e-12:
            assert (value.abs() <= 100 * min(eps, 2.0**-23)).all(), name
        else:
            beside = math.sqrt(terms) * eps * largest if terms > 1 else 0.0
            assert_as_accurate(value, same_dtype, exact, name, beside)
