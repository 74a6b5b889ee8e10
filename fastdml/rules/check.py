"""Finds what is wrong with a rule before it trains anything."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastdml.errors import InputError, RuleError
from fastdml.rules.base import PairRule
from fastdml.rules.check_terms import function_problems, registration_problems, rule_terms, weight_problems
from fastdml.rules.closeness import COSINE, Closeness

BACKENDS = ("blocked", "cpu", "triton", "cuda")


class Step(NamedTuple):
    """One thing that was checked: ``verdict`` is "ok", "wrong" or "skipped", ``detail`` says how or why."""

    name: str
    verdict: str
    detail: str = ""


class Report(NamedTuple):
    """What :func:`check` did; its string is a table."""

    rule: PairRule
    closeness: Closeness
    steps: tuple[Step, ...]

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong."""
        return [f"{step.name}: {step.detail}" for step in self.steps if step.verdict == "wrong"]

    def __str__(self) -> str:
        rows = [f"{self.rule} on {self.closeness}"]
        width = max(len(step.name) for step in self.steps)
        rows += [f"  {step.name:<{width}}  {step.verdict:<7}  {step.detail}".rstrip() for step in self.steps]
        return "\n".join(rows)


def check(rule: PairRule, closeness: Closeness = COSINE, *, row: float | None = None) -> Report:
    """Checks a rule: its terms, its value, and every backend that can run it here, against the reference.

    In this order, each step only where those before it found nothing:

    - *terms*: they are registered, and ``from_constants`` inverts ``constants``;
    - *functions*: each returns finite tensors of the shape and dtype of what it is given, and judges every
      pair by itself;
    - *weights* are the derivatives of the terms, by autograd in float64, to a millionth;
    - *value* returns a dict of ``RowLosses``, finite and with a finite gradient, also for anchors that have
      no positive or no negative;
    - *blocked, cpu, triton, cuda* agree with the dense reference: on ties and copies, on anchors without
      positives, with separate candidates and with a selection;
    - *torch.compile* takes the loss in one graph.

    Takes seconds, ten or twenty under Triton's interpreter.

    Args:
        rule: what to check.
        closeness: what its pairs are compared by.
        row: about the number of each anchor that the terms are to read; None for a rule that reads none.

    Returns:
        A report, which prints as a table.

    Raises:
        InputError: ``rule`` is no rule.
        RuleError: something is wrong; the message lists all of it.
    """
    if not isinstance(rule, PairRule):
        raise InputError(f"rule must be a fastdml.rules.PairRule, got {type(rule).__name__}")
    with torch.enable_grad():
        report = Report(rule, closeness, tuple(_steps(rule, closeness, row)))
    if report.problems:
        raise RuleError(
            f"rule must pass every check, got {len(report.problems)} wrong of {type(rule).__name__}:\n"
            + "\n".join(f"- {problem}" for problem in report.problems)
        )
    return report


def _steps(rule: PairRule, closeness: Closeness, row: float | None) -> list[Step]:
    terms, problems = rule_terms(rule, closeness)
    if terms is None:
        return [Step("terms", "wrong", problem) for problem in problems]
    number = 0.0 if row is None else row
    steps = _outcome("terms", registration_problems(terms), "registered, and made again from constants")
    found = function_problems(terms, closeness, number)
    steps += _outcome("functions", found, "right shapes, finite, pair by pair")
    if found:
        return steps
    found = weight_problems(terms, closeness, number)
    steps += _outcome("weights", found, "the derivatives of the terms")
    if any(step.verdict == "wrong" for step in steps):
        return steps
    return steps + _engine_steps(rule, closeness, row)


def _engine_steps(rule: PairRule, closeness: Closeness, row: float | None) -> list[Step]:
    # the engine imports the rules
    from fastdml.rules.check_backends import (
        backend_problems,
        compile_problems,
        reason_to_skip,
        references,
    )

    known, found = references(rule, closeness, row)
    steps = _outcome("value", found, "finite with its gradient")
    if found:
        return steps
    for backend in BACKENDS:
        why = reason_to_skip(rule, closeness, backend)
        if why is not None:
            steps.append(Step(backend, "skipped", why))
            continue
        detail, found = backend_problems(rule, closeness, row, backend, known)
        steps += _outcome(backend, found, detail)
    return steps + _outcome("torch.compile", compile_problems(rule, closeness, row), "one graph")


def _outcome(name: str, problems: list[str], detail: str) -> list[Step]:
    return [Step(name, "wrong", problem) for problem in problems] or [Step(name, "ok", detail)]
