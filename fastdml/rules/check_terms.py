"""What :func:`fastdml.rules.check` asks of the terms of a rule by themselves, without an engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdml.rules.base import PAIR_TERMS, Extremes, PairRule, PairTerms
from fastdml.rules.closeness import Closeness

ANCHORS, PAIRS = 6, 40
WIDEST = 4.0
"""Where a closeness has no bounds, what lies within these is tried."""


def where(function: Callable[..., Any]) -> str:
    """The name of a function, its file and line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__name__", str(function))
    return name if code is None else f"{name} ({Path(code.co_filename).name}, line {code.co_firstlineno})"


def registration_problems(terms: PairTerms) -> list[str]:
    """Whether the operators can make the terms again from their name and constants."""
    kind = type(terms).__name__
    known = PAIR_TERMS.get(getattr(terms, "name", ""))
    if known is not type(terms):
        named = getattr(terms, "name", None)
        held = "no terms" if known is None else f"{known.__module__}.{known.__qualname__}"
        return [f"{kind} must be registered by @fastdml.rules.register; its name {named!r} is that of {held}"]
    try:
        again = type(terms).from_constants(terms.constants())
    except Exception as error:
        return [f"{where(terms.from_constants)} raised {shown(error)} on constants() = {terms.constants()}"]
    if again != terms:
        return [f"from_constants(constants()) must give the terms again, got {again} from {terms}"]
    return []


class _Sample(NamedTuple):
    """Pairs of a few anchors [ANCHORS, PAIRS], whose first and last are at the bounds of the closeness."""

    positive: Tensor
    negative: Tensor
    row: Tensor

    @classmethod
    def of(cls, closeness: Closeness, row: float, dtype: torch.dtype) -> _Sample:
        random = torch.Generator().manual_seed(0)
        low, high = (min(max(bound, -WIDEST), WIDEST) for bound in closeness.bounds)

        def side() -> Tensor:
            c = low + (high - low) * torch.rand(ANCHORS, PAIRS, generator=random, dtype=torch.float64)
            c[:, 0], c[:, -1] = low, high
            return c.to(dtype)

        return cls(side(), side(), torch.full((ANCHORS,), row, dtype=dtype))

    def extremes(self) -> Extremes:
        return Extremes(self.positive.amin(1), self.positive.amax(1), self.negative.amax(1))


class _Called(NamedTuple):
    """What the five functions gave; None where one was wrong."""

    negative: tuple[Tensor, ...]
    negative_row: Tensor
    negative_weight: Tensor
    positive: tuple[Tensor, ...]
    positive_row: Tensor
    positive_weights: tuple[Tensor, ...]


def function_problems(terms: PairTerms, closeness: Closeness, row: float) -> list[str]:
    """Whether every function returns finite numbers in the shape and dtype of what it is given."""
    for dtype in (torch.float64, torch.float32):
        problems: list[str] = []
        _call(terms, _Sample.of(closeness, row, dtype), problems)
        if problems:
            return problems
    return []


def weight_problems(terms: PairTerms, closeness: Closeness, row: float) -> list[str]:
    """Whether the weights are the derivatives of the terms, by autograd in float64."""
    sample = _Sample.of(closeness, row, torch.float64)
    sample = sample._replace(
        positive=sample.positive.requires_grad_(), negative=sample.negative.requires_grad_()
    )
    called = _call(terms, sample, [])
    assert called is not None
    pairs = [
        ("negative_weight", "the first of negative_terms", sample.negative, called.negative[0],
         called.negative_weight, called.negative_row),
        ("positive_weights", "the first of positive_terms", sample.positive, called.positive[0],
         called.positive_weights[0], called.positive_row),
        ("positive_weights", "the second of positive_terms", sample.positive, called.positive[1],
         called.positive_weights[1], called.positive_row),
    ]  # fmt: skip
    problems = []
    for name, of, c, term, weight, rows in pairs:
        truth = torch.zeros_like(c)
        if term.requires_grad:
            truth = torch.autograd.grad(term.sum(), c, retain_graph=True, allow_unused=True)[0]
            truth = torch.zeros_like(c) if truth is None else truth
        # at the bounds themselves a hinge may have its kink
        error = (weight.detach() - truth).abs()[:, 1:-1]
        size = truth.abs()[:, 1:-1]
        excess = error - (1e-6 * size + 1e-9 * size.max())
        if excess.max() > 0:
            anchor, pair = divmod(int(excess.argmax()), excess.shape[1])
            at = anchor, pair + 1
            problems.append(
                f"{where(getattr(terms, name))} must be the derivative of {of}: at closeness "
                f"{c[at].item():.6g} and row {rows[anchor].item():.6g} that is {truth[at].item():.6g}, "
                f"got {weight[at].item():.6g}"
            )
    return problems


def _call(terms: PairTerms, sample: _Sample, problems: list[str]) -> _Called | None:
    """Calls every function, as the engine does; None, and why in ``problems``, where one is wrong."""

    def run(name: str, like: Tensor, count: int, *given: Any) -> tuple[Tensor, ...] | None:
        function = getattr(terms, name)
        try:
            found = function(*given)
        except Exception as error:
            problems.append(f"{where(function)} raised {shown(error)}")
            return None
        problem = _malformed(found, like, count)
        if problem is not None:
            problems.append(f"{where(function)} {problem}")
            return None
        return (found,) if count == 1 else tuple(found)

    extremes, start = sample.extremes(), sample.row
    negative_row = run("negative_row", start, 1, start, extremes)
    if negative_row is None:
        return None
    column = negative_row[0][:, None]
    negative = run("negative_terms", sample.negative, 2, sample.negative, column)
    negative_weight = run("negative_weight", sample.negative, 1, sample.negative, column)
    if negative is None or negative_weight is None:
        return None
    total = negative[0].detach().sum(1)
    positive_row = run("positive_row", start, 1, start, extremes, total, negative_row[0].detach())
    if positive_row is None:
        return None
    positive_row = (positive_row[0].detach(),)
    column = positive_row[0][:, None]
    positive = run("positive_terms", sample.positive, 2, sample.positive, column)
    weights = run("positive_weights", sample.positive, 2, sample.positive, column)
    if positive is None or weights is None:
        return None
    return _Called(negative, negative_row[0], negative_weight[0], positive, positive_row[0], weights)


def _malformed(found: Any, like: Tensor, count: int) -> str | None:
    """Why what a function returned is not ``count`` finite tensors like one, None where it is."""
    many = "a tensor" if count == 1 else "two tensors"
    tensors = [found] if count == 1 else list(found) if isinstance(found, tuple) else []
    if len(tensors) != count or not all(isinstance(tensor, Tensor) for tensor in tensors):
        got = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
        return f"must return {many}, got {got}"
    for tensor in tensors:
        if tensor.shape != like.shape:
            return f"must return {many} of shape {list(like.shape)}, got {list(tensor.shape)}"
        if tensor.dtype != like.dtype:
            return f"must return {many} of dtype {like.dtype} like what it is given, got {tensor.dtype}"
        if not tensor.isfinite().all():
            at = int(tensor.isfinite().logical_not().flatten().int().argmax())
            of = "" if tensor.ndim == 1 else f" at closeness {like.flatten()[at].item():.6g}"
            return f"must be finite, got {tensor.flatten()[at].item()}{of} in {tensor.dtype}"
    return None


def rule_terms(rule: PairRule, closeness: Closeness) -> tuple[PairTerms | None, list[str]]:
    """The terms of a rule, or why there are none."""
    try:
        terms = rule.terms(closeness)
    except Exception as error:
        return None, [f"{where(rule.terms)} raised {shown(error)}"]
    if not isinstance(terms, PairTerms):
        return None, [f"{where(rule.terms)} must return PairTerms, got {type(terms).__name__}"]
    return terms, []


def shown(error: Exception) -> str:
    """An error in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0].strip()}"
