"""check passes what ships, and tells of a wrong rule which function is wrong, in which file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pair_cases import CASES, EUCLIDEAN, UNNORMALISED, Case
from torch import Tensor

import fastdml
from fastdml.errors import InputError, RuleError
from fastdml.losses import RuleLoss
from fastdml.rules import (
    COSINE,
    Closeness,
    LiftedStructure,
    PairRule,
    PairStatistics,
    PairTerms,
    RowLosses,
    check,
    element,
    register,
)
from pair_batches import make_batch

# one closeness of each rule, and one without bounds of those that take it: the engines' tests have them all
SHIPPED = {
    (type(case.rule).__name__, case.closeness.normalised): (case.rule, case.closeness, case.boundary)
    for case in (*CASES.values(), *UNNORMALISED.values(), Case(LiftedStructure(), EUCLIDEAN))
}


@pytest.mark.parametrize(("rule", "closeness", "row"), SHIPPED.values(), ids=map(str, SHIPPED))
def test_passes_what_ships(rule: PairRule, closeness: Closeness, row: float | None) -> None:
    report = check(rule, closeness, row=row)
    verdicts = {step.name: step.verdict for step in report.steps}
    expected = dict.fromkeys(["terms", "functions", "weights", "value", "blocked", "torch.compile"], "ok")
    assert expected.items() <= verdicts.items()
    for backend in ("cpu", "cuda"):
        why = rule.unsupported(closeness, backend, torch.float32)
        assert verdicts[backend] == "skipped" if why else verdicts[backend] in ("ok", "skipped")
    assert (verdicts["cpu"] == "ok") == (
        rule.unsupported(closeness, "cpu", torch.float32) is None and "cpu" in fastdml.available_backends()
    )
    assert report.problems == []


@register
@dataclass(frozen=True)
class Plain(PairTerms):
    """``scale (c + c^3)`` of negatives, ``(c - 1)^2`` of positives: right, and parent of what is wrong."""

    scale: float = 2.0

    name: ClassVar[str] = "plain"

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * (c + c**3) - row, torch.ones_like(c)

    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return self.scale * (1 + 3 * c**2)

    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return (c - 1) ** 2, c

    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * (c - 1), torch.ones_like(c)


def planted(terms: type[PairTerms]) -> type[PairTerms]:
    """Registers terms that are wrong under their own name."""
    terms.name = terms.__qualname__
    return register(dataclass(frozen=True)(terms))


@dataclass(frozen=True)
class Uses(PairRule):
    """A rule of given terms that sums all that it is given."""

    made: PairTerms

    def terms(self, closeness: Closeness) -> PairTerms:
        return self.made

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        return element(statistics.negative_sum + statistics.positive_sum + statistics.positive_second)


def test_prints_a_table_and_skips_backends_without_kernels() -> None:
    lines = str(check(Uses(Plain()))).splitlines()
    assert lines[0] == "Uses(made=Plain(scale=2.0)) on Closeness(kind='inner', normalised=True)"
    assert [line.split()[:2] for line in lines[1:]] == [
        ["terms", "ok"], ["functions", "ok"], ["weights", "ok"], ["value", "ok"], ["blocked", "ok"],
        ["cpu", "skipped"], ["triton", "skipped"], ["cuda", "skipped"], ["torch.compile", "ok"],
    ]  # fmt: skip
    assert lines[6].endswith("skipped  the terms 'plain' have no cpu kernels")


def test_a_rule_without_kernels_runs_in_blocks() -> None:
    batch, values = make_batch("random"), []
    for backend in (None, "blocked", "reference"):
        with fastdml.use_backend(backend):
            values.append(RuleLoss(Uses(Plain()), reducer="none")(batch.embeddings, batch.labels))
    assert torch.equal(values[0], values[1])
    torch.testing.assert_close(values[1], values[2], rtol=1e-12, atol=0)
    with fastdml.use_backend("cpu"), pytest.raises(fastdml.BackendError, match="'plain' have no cpu kernels"):
        RuleLoss(Uses(Plain()))(batch.embeddings, batch.labels)


@planted
class WrongWeight(Plain):
    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return self.scale * (1 + 2 * c**2)


@planted
class WrongSecondWeight(Plain):
    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * (c - 1), torch.zeros_like(c)


@planted
class SlightlyWrongWeight(Plain):
    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return super().negative_weight(c, row) * (1 + 3e-6)


@planted
class Summed(Plain):
    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return (c + row).sum(dim=1), c


@planted
class OneOfTwo(Plain):
    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return c  # type: ignore[return-value]


@planted
class OtherDtype(Plain):
    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * (c - 1), torch.ones(c.shape, dtype=torch.float32)


@planted
class Overflows(Plain):
    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return torch.exp(100 * c)


@planted
class ScalarRow(Plain):
    def positive_row(self, row: Tensor, *rest: Any) -> Tensor:
        return row.sum()


@planted
class ReadsOtherPairs(Plain):
    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return torch.softmax(c, dim=-1), torch.ones_like(c)


@planted
class MatricesOnly(Plain):
    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return torch.einsum("ij->ij", c), c


@planted
class InfiniteDerivative(Plain):
    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return (c * (c > 0)).sqrt(), c


@planted
class Raises(Plain):
    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("not today\nnor tomorrow")


PLANTED: list[tuple[type[PairTerms], str, str]] = [
    (WrongWeight, "negative_weight", "must be the derivative of the first of negative_terms: at closeness"),
    (WrongSecondWeight, "positive_weights", "the second of positive_terms: .* that is 1, got 0"),
    (SlightlyWrongWeight, "negative_weight", "must be the derivative of the first"),
    (Summed, "negative_terms", r"must return two tensors of shape \[6, 40\], got \[6\]"),
    (OneOfTwo, "positive_terms", "must return two tensors, got Tensor"),
    (OtherDtype, "positive_weights", "of dtype torch.float64 like what it is given, got torch.float32"),
    (Overflows, "negative_weight", r"must be finite, got inf at closeness .* in torch\.float32"),
    (ScalarRow, "positive_row", r"must return a tensor of shape \[6\], got \[\]"),
    (ReadsOtherPairs, "positive_weights", "must judge each pair by itself"),
    (MatricesOnly, "negative_terms", r"raised RuntimeError: .* on a list of pairs, of shape \[80\]"),
    (InfiniteDerivative, "positive_terms", "must have a finite derivative in its first term, got nan"),
    (Raises, "negative_terms", r"raised RuntimeError: not today$"),
]


def place(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"({Path(code.co_filename).name}, line {code.co_firstlineno})"


@pytest.mark.parametrize(
    ("kind", "function", "message"), PLANTED, ids=[kind.__name__ for kind, *_ in PLANTED]
)
def test_names_the_wrong_function_of_terms(kind: type[PairTerms], function: str, message: str) -> None:
    with pytest.raises(RuleError) as raised:
        check(Uses(kind()))
    lines = str(raised.value).splitlines()
    assert lines[0] == "rule must pass every check, got 1 wrong of Uses:"
    assert re.search(message, lines[1]), lines[1]
    assert f"{kind.__name__}.{function} {place(getattr(kind, function))}" in lines[1]


@pytest.mark.parametrize("kind", [Summed, OneOfTwo])
def test_the_engine_too_names_what_returns_another_shape(kind: type[PairTerms]) -> None:
    function = kind.negative_terms if kind is Summed else kind.positive_terms
    loss = RuleLoss(Uses(kind()), distance=fastdml.distances.CosineSimilarity())
    with pytest.raises(RuleError) as raised:
        loss(torch.randn(48, 4), torch.arange(48) // 4)
    assert f"{function.__qualname__} {place(function)} returns must be 2 of the shape of c" in str(
        raised.value
    )


@dataclass(frozen=True)
class Unregistered(Plain):
    name: ClassVar[str] = "unregistered"


@planted
class SwapsConstants(Plain):
    other: float = 3.0

    def constants(self) -> list[float]:
        return [self.other, self.scale]


@planted
class NoFloats(Plain):
    scale: str = "wide"  # type: ignore[assignment]


@planted
class TooFewConstants(Plain):
    other: float = 3.0

    @classmethod
    def from_constants(cls, constants: Any) -> Any:
        (scale,) = constants
        return cls(scale)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unregistered, r"Unregistered \(test_check\.py, line \d+\) must be registered by @fastdml\.rules\."
                       r"register; 'unregistered' names no terms"),
        (SwapsConstants, r"SwapsConstants \(test_check\.py, line \d+\) must be the same again .*got "
                         r"SwapsConstants\(scale=3\.0, other=2\.0\) of SwapsConstants\(scale=2\.0, other=3"),
        (NoFloats, r"PairTerms\.constants \(base\.py, line \d+\) raised ValueError: could not convert"),
        (TooFewConstants, r"TooFewConstants\.from_constants \(test_check\.py, line \d+\) raised ValueError: "
                          r"too many values .* on the constants \[2\.0, 3\.0\]"),
    ],
)  # fmt: skip
def test_terms_must_be_made_again_from_name_and_constants(kind: type[PairTerms], message: str) -> None:
    with pytest.raises(RuleError) as raised:
        check(Uses(kind()))
    assert re.search("^- terms: " + message, str(raised.value), re.MULTILINE), raised.value


class GivesTensor(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return statistics.negative_sum


class GivesTensors(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return {"loss": statistics.negative_sum}


class GivesScalar(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return element(statistics.negative_sum.mean())


class GivesConstant(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return element(statistics.negatives)


class CountsNone(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return {"loss": RowLosses(statistics.negative_sum, None, "neg_pair")}


class UnknownKind(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return {"loss": RowLosses(statistics.negative_sum, statistics.negatives, "pair")}  # type: ignore[arg-type]


class DividesByZero(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return element(statistics.positive_sum / statistics.positives)


class InfiniteGradient(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        total = statistics.positive_sum
        return element(torch.where(total > 0, total.sqrt(), 0))


class Fails(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        return element(statistics.positive_total)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GivesTensor, r"must return a dict of fastdml\.rules\.RowLosses by name, .* got a tensor \[48\]"),
        (GivesTensors, "must return a dict of .*, got Tensor of name 'loss'"),
        (GivesScalar, r"must return total of 'loss' of shape \[48\], one entry an anchor, got \[\]"),
        (GivesConstant, "must be differentiable"),
        (CountsNone, "must return count of 'loss' exactly where its kind is not 'element', got 'neg_pair'"),
        (
            UnknownKind,
            "must return kind of 'loss' one of element, pos_pair, neg_pair, triplet, already_reduced, got",
        ),
        (DividesByZero, "got nan in the total of 'loss' on the batch 'anchors without positives'"),
        (InfiniteGradient, "got nan in the gradient of the anchors on the batch 'anchors without positives'"),
        (Fails, "raised AttributeError: 'PairStatistics' object has no attribute 'positive_total'"),
    ],
)
def test_names_a_wrong_value(kind: type[Uses], message: str) -> None:
    with pytest.raises(RuleError) as raised:
        check(kind(Plain()))
    line = str(raised.value).splitlines()[1]
    assert line.startswith(f"- value: {kind.__name__}.value {place(kind.value)} ")
    assert re.search(message, line), line


@planted
class LosesAConstant(Plain):
    """Equal to what its constants make, which loses ``hidden``: every backend makes terms from those."""

    hidden: float = field(default=0.0, compare=False)

    def constants(self) -> list[float]:
        return [self.scale]

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return super().negative_terms(c, row)[0] + self.hidden, torch.ones_like(c)


def test_a_backend_that_gives_other_numbers_is_named() -> None:
    check(Uses(LosesAConstant()))
    with pytest.raises(RuleError, match="blocked: on the batch 'plain', the total of 'loss' must be within"):
        check(Uses(LosesAConstant(hidden=1e-3)))


@planted
class ClaimsKernels(Plain):
    native: ClassVar[tuple[str, ...]] = ("cpu",)


def test_kernels_that_are_not_there_are_named() -> None:
    if "cpu" not in fastdml.available_backends():
        pytest.skip("needs the native backend")
    with pytest.raises(RuleError, match=r"cpu: on the batch 'plain' raised .*ClaimsKernels"):
        check(Uses(ClaimsKernels()))


class LeavesTheGraph(Uses):
    def value(self, statistics: PairStatistics, closeness: Closeness) -> Any:
        if statistics.negative_sum.sum() > 1e9:
            return element(statistics.negative_sum)
        return super().value(statistics, closeness)


def test_a_break_of_the_graph_is_named() -> None:
    with pytest.raises(RuleError, match=r"torch\.compile: raised Unsupported"):
        check(LeavesTheGraph(Plain()))


class NoTerms(Uses):
    def terms(self, closeness: Closeness) -> Any:
        if closeness == COSINE:
            return "plain"
        raise ValueError("closeness must be a cosine")


def test_a_rule_must_give_terms_and_be_one() -> None:
    with pytest.raises(RuleError, match=r"NoTerms\.terms \(test_check\.py, line \d+\) must return PairTerms"):
        check(NoTerms(Plain()))
    with pytest.raises(RuleError, match=r"NoTerms\.terms .* raised ValueError: closeness must be a cosine"):
        check(NoTerms(Plain()), EUCLIDEAN)
    with pytest.raises(InputError, match=r"rule must be a fastdml\.rules\.PairRule, got Plain"):
        check(Plain())  # type: ignore[arg-type]


def test_runs_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert check(Uses(Plain())).problems == []
