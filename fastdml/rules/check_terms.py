"""What :func:`fastdml.rules.check` asks of the terms of a rule by themselves, without an engine."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdml.rules.base import PAIR_TERMS, Extremes, PairRule, PairTerms
from fastdml.rules.closeness import Closeness

ANCHORS, PAIRS = 6, 40
WIDEST = 4.0
"""Where a closeness has no bounds, what lies within these is tried."""


def where(named: Any) -> str:
    """The name of a function or class, its file and line."""
    named = inspect.unwrap(getattr(named, "__func__", named))
    name = getattr(named, "__qualname__", str(named)).rpartition("<locals>.")[2]
    code = getattr(named, "__code__", None)
    if code is not None:
        return f"{name} ({Path(code.co_filename).name}, line {code.co_firstlineno})"
    try:
        return f"{name} ({Path(inspect.getfile(named)).name}, line {inspect.getsourcelines(named)[1]})"
    except (OSError, TypeError):  # a class that was not read from a file
        return name


def registration_problems(terms: PairTerms) -> list[str]:
    """Whether the operators can make the terms again from their name and constants."""
    kind, name = type(terms), getattr(terms, "name", None)
    known = PAIR_TERMS.get(str(name))
    if known is not kind:
        held = "no terms" if known is None else where(known)
        return [f"{where(kind)} must be registered by @fastdml.rules.register; {name!r} names {held}"]
    try:
        constants = terms.constants()
    except Exception as error:
        return [f"{where(terms.constants)} raised {shown(error)}; terms must be a frozen dataclass of floats"]
    try:
        again = kind.from_constants(constants)
    except Exception as error:
        return [f"{where(kind.from_constants)} raised {shown(error)} on the constants {constants}"]
    if again != terms:
        return [
            f"{where(kind)} must be the same again by from_constants(constants()), got {again} of {terms}"
        ]
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
    """Whether every function returns finite numbers in the shape and dtype of what it is given, and judges
    each pair by itself.
    """
    for dtype in (torch.float64, torch.float32):
        problems: list[str] = []
        sample = _Sample.of(closeness, row, dtype)
        called = _call(terms, sample, problems)
        if called is None:
            return problems
        negative, positive = (sample.negative, called.negative_row), (sample.positive, called.positive_row)
        found = [
            _together_problem(terms.negative_terms, *negative, called.negative),
            _together_problem(terms.negative_weight, *negative, (called.negative_weight,)),
            _together_problem(terms.positive_terms, *positive, called.positive),
            _together_problem(terms.positive_weights, *positive, called.positive_weights),
        ]
        problems = [problem for problem in found if problem is not None]
        if problems:
            return problems
    return []


def _together_problem(function: Any, c: Tensor, row: Tensor, together: tuple[Tensor, ...]) -> str | None:
    """Why a function does not judge each pair by itself: a list of some must give what their matrix gave."""
    some = torch.arange(0, c.numel(), 3)
    listed = c.flatten()[some], row[:, None].expand_as(c).flatten()[some]
    try:
        found = function(*listed)
    except Exception as error:
        return f"{where(function)} raised {shown(error)} on a list of pairs, of shape {list(some.shape)}"
    problem = _malformed(found, listed[0], len(together))
    if problem is not None:
        return f"{where(function)} {problem}"
    for alone, matrix in zip((found,) if len(together) == 1 else found, together, strict=True):
        allowed = 100 * torch.finfo(c.dtype).eps * matrix.abs().max()
        if (alone - matrix.flatten()[some]).abs().max() > allowed:
            return (
                f"{where(function)} must judge each pair by itself, got numbers that change with other pairs"
            )
    return None


def weight_problems(terms: PairTerms, closeness: Closeness, row: float) -> list[str]:
    """Whether the weights are the derivatives of the terms, by autograd in float64."""
    sample = _Sample.of(closeness, row, torch.float64)
    sample = sample._replace(
        positive=sample.positive.requires_grad_(), negative=sample.negative.requires_grad_()
    )
    problems: list[str] = []
    called = _call(terms, sample, problems)
    if called is None:
        return problems
    negative, positive = (sample.negative, called.negative_row), (sample.positive, called.positive_row)
    found = [
        _derivative_problem(terms.negative_weight, called.negative_weight,
                            terms.negative_terms, called.negative[0], "first", *negative),
        _derivative_problem(terms.positive_weights, called.positive_weights[0],
                            terms.positive_terms, called.positive[0], "first", *positive),
        _derivative_problem(terms.positive_weights, called.positive_weights[1],
                            terms.positive_terms, called.positive[1], "second", *positive),
    ]  # fmt: skip
    return [problem for problem in found if problem is not None]


def _derivative_problem(
    weighs: Any, weight: Tensor, sums: Any, term: Tensor, which: str, c: Tensor, row: Tensor
) -> str | None:
    """Why a weight is not the derivative of a term, None where it is."""
    truth = None
    if term.requires_grad:
        truth = torch.autograd.grad(term.sum(), c, retain_graph=True, allow_unused=True)[0]
    truth = torch.zeros_like(c) if truth is None else truth

    def at(number: Tensor) -> tuple[int, int, str]:
        anchor, pair = divmod(int(number.int().argmax()), number.shape[1])
        return anchor, pair, f"at closeness {c[anchor, pair].item():.6g} and row {row[anchor].item():.6g}"

    if not truth.isfinite().all():
        anchor, pair, place = at(~truth.isfinite())
        return (
            f"{where(sums)} must have a finite derivative in its {which} term, "
            f"got {truth[anchor, pair].item()} {place}"
        )
    off = (weight.detach() - truth).abs() > 1e-6 * truth.abs() + 1e-9 * truth.abs().max()
    off[:, [0, -1]] = False  # at the bounds themselves a hinge may have its kink
    if not off.any():
        return None
    anchor, pair, place = at(off)
    return (
        f"{where(weighs)} must be the derivative of the {which} of {sums.__name__}: {place} that is "
        f"{truth[anchor, pair].item():.6g}, got {weight[anchor, pair].item():.6g}"
    )


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
