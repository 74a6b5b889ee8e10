"""The terms of the rules: weights are the derivatives of terms, and constants make the same terms again."""

from __future__ import annotations

import pytest
import torch
from pair_cases import CASES, UNNORMALISED, Case

from fastdml.rules import PairTerms, terms_named

EVERY = {**CASES, **UNNORMALISED}


def parts(case: Case) -> tuple[PairTerms, torch.Tensor, torch.Tensor]:
    low, high = (max(-3.0, min(3.0, bound)) for bound in case.closeness.bounds)
    c = (torch.linspace(low, high, 401, dtype=torch.float64)[1:-1] + 0.00071).requires_grad_()
    row = torch.full_like(c, -0.9 if case.boundary is not None else 0.0).detach()
    return case.rule.terms(case.closeness), c, row


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_weights_are_the_derivatives_of_terms(case: Case) -> None:
    terms, c, row = parts(case)
    first, _ = terms.negative_terms(c, row)
    (expected,) = torch.autograd.grad(first.sum(), c)
    torch.testing.assert_close(terms.negative_weight(c, row).detach(), expected, rtol=1e-9, atol=1e-12)
    for term, weight in zip(terms.positive_terms(c, row), terms.positive_weights(c, row), strict=True):
        if not term.requires_grad:
            assert weight.abs().max() == 0
            continue
        (expected,) = torch.autograd.grad(term.sum(), c, retain_graph=True)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_constants_make_the_same_terms_again(case: Case) -> None:
    terms = case.rule.terms(case.closeness)
    assert terms_named(terms.name, terms.constants()) == terms


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"terms must be registered, got 'nonsense'; known: .*circle, expo"):
        terms_named("nonsense", [])
