"""RuleLoss: a rule as a module is worth what the loss of that rule is, however it is called."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from loss_values import value_and_gradients

from fastdml import distances, losses, miners, reducers
from fastdml.errors import InputError
from fastdml.rules import Closeness, Contrastive, Margin, MultiSimilarity, NTXent, SupCon
from fastdml.rules.terms import Exponential
from pair_batches import Batch, make_batch

COSINE = distances.CosineSimilarity()
PAIRS = {
    "multi-similarity": (MultiSimilarity(), losses.MultiSimilarityLoss, {}, reducers.MeanReducer),
    "supcon": (SupCon(), losses.SupConLoss, {}, reducers.AvgNonZeroReducer),
    "nt-xent": (NTXent(), losses.NTXentLoss, {}, reducers.MeanReducer),
    "contrastive": (Contrastive(0.9, 0.4), losses.ContrastiveLoss, {"pos_margin": 0.9, "neg_margin": 0.4},
                    reducers.MeanReducer),
}  # fmt: skip


@pytest.fixture(params=PAIRS)
def both(request: pytest.FixtureRequest) -> tuple[losses.RuleLoss, losses.PairLoss]:
    """The rule as a loss, and the loss of that rule."""
    rule, known, arguments, reducer = PAIRS[request.param]
    return (
        losses.RuleLoss(rule, distance=COSINE, reducer=reducer()),
        known(**arguments, distance=COSINE, reducer=reducer()),
    )


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["random", "candidates"])
@pytest.mark.parametrize("mined", [False, True])
def test_is_the_loss_of_its_rule(
    both: tuple[losses.RuleLoss, losses.PairLoss], name: str, mined: bool
) -> None:
    batch, miner = make_batch(name), miners.MultiSimilarityMiner(0.1) if mined else None
    loss, known = both
    assert_same(value_and_gradients(loss, batch, miner), value_and_gradients(known, batch, miner))


def test_takes_listed_pairs_and_triplets(both: tuple[losses.RuleLoss, losses.PairLoss]) -> None:
    batch = make_batch("random")
    mined = miners.MultiSimilarityMiner(0.1)(batch.embeddings, batch.labels)
    triplets = miners.BatchHardMiner()(batch.embeddings, batch.labels)
    for pairs in (tuple(mined), tuple(triplets)):
        assert len(pairs[0]) > 10
        found, expected = (value_and_gradients(loss, batch, lambda *_, pairs=pairs: pairs) for loss in both)
        assert_same(found, expected)


def test_takes_own_candidates(both: tuple[losses.RuleLoss, losses.PairLoss]) -> None:
    batch = make_batch("random")
    itself = (batch.embeddings, batch.labels)
    own = torch.arange(len(batch.labels))
    loss, known = both
    torch.testing.assert_close(loss(*itself, None, *itself, own=own), known(*itself), rtol=1e-12, atol=0)
    assert loss(*itself, None, *itself) != known(*itself)


def test_losses_of_anchors_take_every_reducer() -> None:
    batch = make_batch("random")
    loss = losses.RuleLoss(SupCon(), distance=COSINE, reducer="none")
    rows = loss(batch.embeddings, batch.labels)
    assert rows.shape == batch.labels.shape
    high = float(rows.median())
    kept = rows[(rows > 0) & (rows < high)]

    class Largest(torch.nn.Module):
        def forward(self, described: dict[str, Any], embeddings: Any, labels: Any) -> torch.Tensor:
            del embeddings, labels
            assert torch.equal(described["loss"]["indices"], torch.arange(len(batch.labels)))
            return described["loss"]["losses"].max()

    for reducer, expected in (
        ("sum", rows.sum()),
        (reducers.ThresholdReducer(0, high), kept.mean()),
        (reducers.MultipleReducers({"loss": reducers.SumReducer()}), rows.sum()),
        (Largest(), rows.max()),
    ):
        found = losses.RuleLoss(SupCon(), distance=COSINE, reducer=reducer)(batch.embeddings, batch.labels)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    single = losses.RuleLoss(SupCon(), distance=COSINE, reducer=reducers.DoNothingReducer())
    described = single(batch.embeddings, batch.labels)["loss"]
    assert torch.equal(described["losses"], rows)
    assert described["reduction_type"] == "element"


def test_a_reducer_for_each_of_several_losses() -> None:
    batch = make_batch("random")
    parts = reducers.MultipleReducers({"pos_loss": reducers.SumReducer()}, reducers.MeanReducer())
    found, expected = (
        make(reducer=parts, distance=COSINE)(batch.embeddings, batch.labels)
        for make in (
            lambda **options: losses.RuleLoss(Contrastive(0.9, 0.4), **options),
            lambda **options: losses.ContrastiveLoss(0.9, 0.4, **options),
        )
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("reducer", "message"),
    [
        (reducers.AvgNonZeroReducer(), "reducer must be one without bounds for losses of a pos_pair, which "
                                       "Contrastive sums by anchor, got AvgNonZeroReducer"),
        (reducers.MultipleReducers({"neg_loss": reducers.AvgNonZeroReducer()}), "of a neg_pair"),
        (reducers.DoNothingReducer(), "Contrastive lists no losses of a pos_pair"),
    ],
)  # fmt: skip
def test_losses_of_pairs_refuse_reducers_of_single_ones(reducer: reducers.Reducer, message: str) -> None:
    batch = make_batch("random")
    with pytest.raises(InputError, match=message):
        losses.RuleLoss(Contrastive(), reducer=reducer)(batch.embeddings, batch.labels)


@dataclass(frozen=True)
class OnlyCosine(MultiSimilarity):
    def terms(self, closeness: Closeness) -> Exponential:
        if closeness.kind != "inner":
            raise ValueError(f"closeness must be a cosine, got {closeness.kind!r}")
        return super().terms(closeness)


def test_bad_arguments_are_refused_when_it_is_made() -> None:
    with pytest.raises(InputError, match=r"rule must be a fastdml\.rules\.PairRule, got str"):
        losses.RuleLoss("contrastive")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closeness must be a cosine, got 'euclidean'"):
        losses.RuleLoss(OnlyCosine())
    assert losses.RuleLoss(OnlyCosine(), distance=COSINE).rule() == OnlyCosine()


def test_prints_its_rule_and_pickles() -> None:
    loss = losses.RuleLoss(MultiSimilarity(beta=40), distance=COSINE)
    assert "MultiSimilarity(alpha=2.0, beta=40, base=0.5)" in repr(loss)
    batch = make_batch("random")
    again = pickle.loads(pickle.dumps(loss))
    assert torch.equal(again(batch.embeddings, batch.labels), loss(batch.embeddings, batch.labels))


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs_give_a_differentiable_zero(count: int) -> None:
    batch = Batch(torch.randn(count, 8), torch.zeros(count, dtype=torch.int64))
    value, gradient = value_and_gradients(losses.RuleLoss(Contrastive(), reducer="mean"), batch)
    assert value == 0
    assert torch.equal(gradient, torch.zeros(count, 8))


class BoundaryOfEachClass(losses.RuleLoss):
    """A rule that reads a number of each anchor, as docs/your-own-loss.md says."""

    def __init__(self, boundaries: torch.Tensor, **options: Any) -> None:
        super().__init__(Margin(0.2), **options)
        self.boundaries = torch.nn.Parameter(boundaries)

    def row(self, batch: Any) -> torch.Tensor:
        return -self.boundaries[batch.labels]


def test_a_subclass_hands_its_terms_a_number_of_each_anchor() -> None:
    batch, boundaries = make_batch("random"), torch.linspace(0.7, 1.1, 12, dtype=torch.float64)
    loss = BoundaryOfEachClass(boundaries, reducer="sum")
    known = losses.MarginLoss(0.2, beta=0.9, num_classes=12, learn_beta=True, reducer="sum").double()
    known.beta.data = boundaries.clone()
    found, expected = (module(batch.embeddings, batch.labels) for module in (loss, known))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found.backward()
    expected.backward()
    assert known.beta.grad is not None
    assert loss.boundaries.grad is not None
    torch.testing.assert_close(loss.boundaries.grad, known.beta.grad, rtol=1e-12, atol=1e-12)
