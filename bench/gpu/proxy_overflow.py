"""Sizes of the proxy engine past 2^31: numbers of centres and samples, similarities; the last are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.gpu.overflow import ALLOWED, LAST, judge
from bench.gpu.proof import Setting, relative_error
from bench.proxy_peers import CLASSES_ON_CUDA
from fastdml.engines.proxy import proxy_statistics
from fastdml.rules import Centres

SCALE = 20.0


class Problem(NamedTuple):
    """Samples of length one in float32, centres as they are stored, and labels all over the classes."""

    rows: Tensor
    centres: Tensor
    labels: Tensor
    how: Centres


def proxy_overflow(setting: Setting, backend: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """One case a place where an index could overflow, with centres in columns and in rows."""
    classes, width, samples = (CLASSES_ON_CUDA, 2048, 65536 + 72) if not setting.tiny else (300, 24, 200)
    for columns in (True, False):
        how = Centres(10, 0.1, columns)
        yield (
            f"C K D, {classes} x 10 x {width}, {'columns' if columns else 'rows'}",
            partial(_whole, setting, backend, how, (LAST, width, classes), "bfloat16"),
        )
    few = classes // 20
    yield (
        f"B C K, {samples} x {few} x 10",
        partial(
            _whole, setting, backend, Centres(10, 0.1), (samples, 64 if width > 64 else 8, few), "float32"
        ),
    )
    long, width = (600, 48) if setting.tiny else ((1 << 22) + 200, 512)
    for dtype in ("bfloat16", "float32"):
        yield f"B D, B = {long}, {dtype}", partial(_samples, setting, backend, long, width, dtype)


def _whole(setting: Setting, backend: str, how: Centres, sizes: tuple[int, int, int], dtype: str) -> str:
    """Everything, against plain PyTorch in float64, a block at a time."""
    problem = _problem(setting, how, *sizes, dtype)
    found = _gather(problem, backend, dtype)
    truth = _gather(problem._replace(rows=problem.rows.double()), "blocked", dtype)
    errors = {name: relative_error(found[name], truth[name]) for name in ("others", "target", "gradient")}
    centres, exact = (each["gradient of centres"] for each in (found, truth))
    dimension = 1 if how.columns else 0
    last = LAST * how.per_class
    ends = {"first": 0, "last": centres.shape[dimension] - min(last, centres.shape[dimension])}
    for name, start in ends.items():
        part, exact_part = (
            each.narrow(dimension, start, min(last, each.shape[dimension])) for each in (centres, exact)
        )
        errors[f"{name} centres"] = relative_error(part, exact_part)
    return judge(errors, ALLOWED[dtype])


def _samples(setting: Setting, backend: str, count: int, width: int, dtype: str) -> str:
    """So many samples, few classes; samples are independent, so the last ones can be recomputed alone."""
    problem = _problem(setting, Centres(2, 0.1), count, width, LAST, "float32")
    found = _gather(problem, backend, dtype, first=count - LAST)
    some = problem._replace(rows=problem.rows[-LAST:].double(), labels=problem.labels[-LAST:])
    truth = _gather(some, "reference", dtype)
    errors = {
        name: relative_error(found[name][-LAST:], truth[name]) for name in ("others", "target", "gradient")
    }
    errors["centres"] = relative_error(found["gradient of centres"], truth["gradient of centres"])
    errors["first gradients, which are zero"] = float(found["gradient"][:LAST].abs().max())
    return judge(errors, ALLOWED[dtype])


def _problem(setting: Setting, how: Centres, samples: int, width: int, classes: int, dtype: str) -> Problem:
    """The labels run through all classes, and the last sample is of the last."""
    generator = torch.Generator(setting.device).manual_seed(samples)
    rows = torch.empty(samples, width, device=setting.device).normal_(generator=generator)
    rows = F.normalize(rows, dim=1, out=rows)
    count = classes * how.per_class
    shape = (width, count) if how.columns else (count, width)
    centres = torch.empty(shape, device=setting.device, dtype=getattr(torch, dtype))
    centres.normal_(generator=generator)
    back = torch.arange(samples - 1, -1, -1, device=setting.device)
    labels = classes - 1 - back * max(1, classes // samples) % classes
    return Problem(rows, centres, labels, how)


def _gather(problem: Problem, backend: str, dtype: str, first: int = 0) -> dict[str, Tensor]:
    """Statistics of all samples, and gradients of those from ``first`` on."""
    rows, centres = (values.detach().requires_grad_() for values in (problem.rows, problem.centres))
    with fastdml.use_backend(backend):
        found = proxy_statistics(
            rows, centres, problem.labels, problem.how, scale=SCALE, product=getattr(torch, dtype)
        )
    value = (found.others - SCALE * found.target)[first:].sum()
    gradients = torch.autograd.grad(value, (rows, centres))
    return {
        "others": found.others.detach(),
        "target": found.target.detach(),
        "gradient": gradients[0],
        "gradient of centres": gradients[1],
    }
