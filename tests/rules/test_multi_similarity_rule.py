"""The rule in PyTorch terms against finite differences, the paper's pair weights and a loop over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastdml.backends import reference
from fastdml.rules import MultiSimilarity
from pair_batches import make_batch


def loss_by_loops(similarity: Tensor, labels: Tensor, rule: MultiSimilarity) -> list[float]:
    """Section 2 of the mathematics, pair by pair."""
    losses = []
    for i, row in enumerate(similarity.tolist()):
        positive = [s for j, s in enumerate(row) if j != i and labels[j] == labels[i]]
        negative = [s for j, s in enumerate(row) if labels[j] != labels[i]]
        if rule.duplicate is not None:
            positive = [s for s in positive if s < rule.duplicate]
        if rule.epsilon is not None:
            least, most = min(positive, default=math.inf), max(negative, default=-math.inf)
            negative = [s for s in negative if s + rule.epsilon > least]
            positive = [s for s in positive if s - rule.epsilon < most]
        pull = sum(math.exp(-rule.alpha * (s - rule.base)) for s in positive)
        push = sum(math.exp(rule.beta * (s - rule.base)) for s in negative)
        losses.append(math.log1p(pull) / rule.alpha + math.log1p(push) / rule.beta)
    return losses


RULES = {
    "unmined": MultiSimilarity(),
    "mined": MultiSimilarity(epsilon=0.1),
    "official": MultiSimilarity(beta=40, epsilon=0.1, duplicate=1 - 1e-5),
    "paper": MultiSimilarity(base=1, epsilon=0.1),
    "tight": MultiSimilarity(epsilon=-0.2),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    "name", ["random", "some without positives", "one class", "all distinct", "duplicates"]
)
def test_dense_equals_loops(rule: MultiSimilarity, name: str) -> None:
    batch = make_batch(name)
    similarity = reference.pair_similarity(batch.embeddings, None)
    losses = reference.pair_losses(rule, batch.embeddings, batch.labels)
    expected = torch.tensor(loss_by_loops(similarity, batch.labels, rule), dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", [RULES["unmined"], RULES["mined"]], ids=["unmined", "mined"])
def test_gradient_by_finite_differences(rule: MultiSimilarity) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    embeddings = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def losses(x: Tensor, r: Tensor | None = None) -> Tensor:
        return reference.pair_losses(rule, x, labels, r, None if r is None else torch.tensor([0, 1, 1, 2]))

    assert torch.autograd.gradcheck(losses, (embeddings,))
    assert torch.autograd.gradcheck(losses, (embeddings, candidates))


def test_pair_weights_are_those_of_the_paper() -> None:
    batch, rule = make_batch("random"), RULES["tight"]
    similarity = reference.pair_similarity(batch.embeddings, None).requires_grad_()
    positive, negative = reference.pair_masks(batch.labels, None)
    rule.dense(similarity, positive, negative).sum().backward()

    kept_positive, kept_negative = rule.select(similarity.detach(), positive, negative)
    pull = torch.exp(-rule.alpha * (similarity.detach() - rule.base)) * kept_positive
    push = torch.exp(rule.beta * (similarity.detach() - rule.base)) * kept_negative
    weights = push / (1 + push.sum(1, keepdim=True)) - pull / (1 + pull.sum(1, keepdim=True))
    torch.testing.assert_close(similarity.grad, weights)
    assert 0 < kept_negative.sum() < negative.sum()
    assert 0 < kept_positive.sum() < positive.sum()


def test_exponents_that_leave_float32_are_refused_natively_and_right_in_the_reference() -> None:
    rule = MultiSimilarity(beta=400, base=0)
    assert "float32" in (rule.unsupported("cpu", torch.float32) or "")
    assert rule.unsupported("cpu", torch.float64) is None
    assert rule.unsupported("reference", torch.float32) is None
    batch = make_batch("random").to(torch.float32)
    exact = reference.pair_losses(rule, batch.embeddings.double(), batch.labels)
    torch.testing.assert_close(
        reference.pair_losses(rule, batch.embeddings, batch.labels).double(), exact, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0}, "alpha must be a positive number, got 0"),
        ({"beta": math.nan}, "beta must be a positive number, got nan"),
        ({"base": math.inf}, "base must be a finite number, got inf"),
        ({"epsilon": math.nan}, "epsilon must be a finite number or None, got nan"),
    ],
)
def test_values_that_no_rule_accepts(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiSimilarity(**arguments)
