"""Pair weights against autograd through formulas written out, and against the gradient of the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from fastdml import distances, gpw, losses, miners, reducers
from fastdml.errors import InputError
from fastdml.losses.n_pairs import first_two_of_each_class
from fastdml.rules import MultiSimilarity
from pair_batches import make_batch

Masks = tuple[Tensor, Tensor]


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0).sum(1)


def logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, -1e9).logsumexp(1)


def distance(s: Tensor) -> Tensor:
    """Of unit vectors; an anchor is at no distance of itself, where the root has no slope."""
    own = torch.eye(len(s), dtype=torch.bool)
    return (2 - 2 * s.masked_fill(own, 0)).sqrt()


def multi_similarity(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    pull = torch.log1p(masked_sum(torch.exp(-2 * (s - 0.5)), p)) / 2
    return (pull + torch.log1p(masked_sum(torch.exp(50 * (s - 0.5)), n)) / 50).sum()


def contrastive(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    d = distance(s)
    return masked_sum(d, p).sum() + masked_sum(F.relu(1 - d), n).sum()


def binomial(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    pull = masked_sum(F.softplus(-2 * (s - 0.5), threshold=99), p) / p.sum(1).clamp_min(1)
    push = masked_sum(F.softplus(50 * (s - 0.5), threshold=99), n) / n.sum(1).clamp_min(1)
    return (pull + push).sum()


def margin(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    d = distance(s)
    every = p[:, :, None] & n[:, None, :]
    loss = F.relu(d[:, :, None] - 1.2 + 0.2) + F.relu(1.2 - d[:, None, :] + 0.2)
    return torch.where(every, loss, 0).sum()


def triplet(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    d = distance(s)
    every = p[:, :, None] & n[:, None, :]
    return torch.where(every, F.relu(d[:, :, None] - d[:, None, :] + 0.2), 0).sum()


def generalised_lifted(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    d = distance(s)
    pull, push = (torch.where(m.any(1), logsumexp(v, m), 0) for v, m in ((d, p), (1 - d, n)))
    return F.relu(pull + push).sum()


def lifted(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    d = distance(s)
    push = masked_sum(torch.exp(1 - d), n)
    return torch.where(p, F.relu((push[:, None] + push[None, :]).log() + d).square() / 2, 0).sum()


def nt_xent(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    push = logsumexp(s / 0.07, n)
    return torch.where(p, F.softplus(push[:, None] - s / 0.07, threshold=99), 0).sum()


def supcon(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    everything = logsumexp(s / 0.1, p | n)
    mean = masked_sum(s / 0.1, p) / p.sum(1).clamp_min(1)
    return torch.where(p.any(1), everything - mean, 0).sum()


def circle(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    push = logsumexp(80 * (s.detach() + 0.4).clamp_min(0) * (s - 0.4), n)
    pull = logsumexp(-80 * (1.4 - s.detach()).clamp_min(0) * (s - 0.6), p)
    return torch.where(p.any(1) & n.any(1), F.softplus(push + pull, threshold=99), 0).sum()


def n_pairs(s: Tensor, p: Tensor, n: Tensor, labels: Tensor) -> Tensor:
    anchors, positives = first_two_of_each_class(labels)
    return F.cross_entropy(s[anchors][:, positives], torch.arange(len(anchors)), reduction="sum")


FORMULAS: dict[str, tuple[Callable[..., losses.PairLoss], Callable[..., Tensor]]] = {
    "multi-similarity": (losses.MultiSimilarityLoss, multi_similarity),
    "contrastive": (losses.ContrastiveLoss, contrastive),
    "binomial deviance": (losses.BinomialDevianceLoss, binomial),
    "margin": (losses.MarginLoss, margin),
    "triplet": (lambda **options: losses.TripletMarginLoss(0.2, **options), triplet),
    "generalised lifted": (losses.GeneralizedLiftedStructureLoss, generalised_lifted),
    "lifted": (losses.LiftedStructureLoss, lifted),
    "nt-xent": (losses.NTXentLoss, nt_xent),
    "supcon": (losses.SupConLoss, supcon),
    "circle": (losses.CircleLoss, circle),
    "n-pairs": (losses.NPairsLoss, n_pairs),
    "a rule": (
        lambda **options: losses.RuleLoss(
            MultiSimilarity(), distance=distances.CosineSimilarity(), **options
        ),
        multi_similarity,
    ),
}


def masks(labels: Tensor) -> Masks:
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


@pytest.mark.parametrize("name", ["random", "some without positives", "one pair"])
@pytest.mark.parametrize(("make", "formula"), FORMULAS.values(), ids=FORMULAS)
def test_weights_are_derivatives_by_every_single_similarity(
    make: Callable[..., losses.PairLoss], formula: Callable[..., Tensor], name: str
) -> None:
    batch = make_batch(name)
    found = gpw.weights(make(reducer="sum"), batch.embeddings, batch.labels)
    positive, negative = masks(batch.labels)
    rows = F.normalize(batch.embeddings)
    s = (rows @ rows.T).requires_grad_()
    loss = formula(s, positive, negative, batch.labels)
    truth = torch.autograd.grad(loss, s)[0]
    if name == "one pair" and formula in (supcon, lifted, nt_xent):
        truth = torch.zeros_like(truth)  # a batch without a negative costs nothing, here as in theirs
    assert torch.equal(found.positive, positive)
    assert torch.equal(found.negative, negative)
    torch.testing.assert_close(found.similarity, s.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.weight, truth, rtol=1e-9, atol=1e-11 * float(truth.abs().max() + 1e-300))


def predicted(weight: Tensor, embeddings: Tensor, refs: Tensor) -> Tensor:
    """The gradient of embeddings of which these are the weights against unit rows."""
    norms = embeddings.norm(dim=1, keepdim=True).clamp_min(1e-12)
    units = embeddings / norms
    force = weight @ refs
    return (force - (force * units).sum(1, keepdim=True) * units) / norms


NAMES = [
    name
    for name in losses.__all__
    if issubclass(getattr(losses, name), losses.PairLoss) and name not in ("PairLoss", "RuleLoss")
]


@pytest.mark.parametrize("name", ["random", "candidates", "zero vectors"])
@pytest.mark.parametrize("kind", NAMES)
def test_weights_make_the_gradient_of_the_embeddings(kind: str, name: str) -> None:
    # a vector of zeros is at distance 1 of all others, where the hinge has its kink by default
    arguments = {"neg_margin": 0.9} if kind == "ContrastiveLoss" else {}
    batch, loss = make_batch(name), getattr(losses, kind)(**arguments)
    if kind == "NPairsLoss" and batch.ref_embeddings is not None:
        pytest.skip("N-pairs takes no candidates")
    found = gpw.weights(loss, batch.embeddings, batch.labels, None, batch.ref_embeddings, batch.ref_labels)
    leaf = batch.embeddings.clone().requires_grad_()
    with fastdml.use_backend("blocked"):
        value = loss(leaf, batch.labels, None, batch.ref_embeddings, batch.ref_labels)
    truth = torch.autograd.grad(value, leaf)[0]
    units = F.normalize(batch.embeddings)
    if batch.ref_embeddings is None:
        gradient = predicted(found.weight + found.weight.T, batch.embeddings, units)
    else:
        gradient = predicted(found.weight, batch.embeddings, F.normalize(batch.ref_embeddings))
    torch.testing.assert_close(gradient, truth, rtol=1e-9, atol=1e-12 * float(truth.abs().max()))
    assert 0 < found.weight.abs().max() < 1e3


def test_chosen_anchors_are_rows_of_all() -> None:
    batch, loss = make_batch("random"), losses.MultiSimilarityLoss()
    everything = gpw.weights(loss, batch.embeddings, batch.labels)
    some = gpw.weights(loss, batch.embeddings, batch.labels, [7, 3])
    one = gpw.weights(loss, batch.embeddings, batch.labels, 3)
    torch.testing.assert_close(some.similarity, everything.similarity[[7, 3]], rtol=0, atol=1e-14)
    for part in ("weight", "positive", "negative"):
        assert torch.equal(getattr(some, part), getattr(everything, part)[[7, 3]]), part
        assert torch.equal(getattr(one, part), getattr(everything, part)[[3]]), part
    assert some.anchors.tolist() == [7, 3]


def test_mined_pairs_are_those_that_weigh() -> None:
    batch = make_batch("random")
    mined = miners.MultiSimilarityMiner(0.1)(batch.embeddings, batch.labels)
    found = gpw.weights(
        losses.MultiSimilarityLoss(), batch.embeddings, batch.labels, indices_tuple=mined
    )  # fmt: skip
    kept = torch.zeros_like(found.positive)
    for side in (0, 2):
        kept[mined[side], mined[side + 1]] = True
    assert torch.equal(found.weight != 0, kept)
    assert 0 < kept.sum() < (found.positive | found.negative).sum()


def test_listed_triplets_and_own_candidates() -> None:
    batch = make_batch("random")
    triplets = (torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([3, 4]))
    loss = losses.TripletMarginLoss(3.0, reducer="sum", distance=distances.CosineSimilarity())
    weight = gpw.weights(loss, batch.embeddings, batch.labels, 0, indices_tuple=triplets).weight[0]
    expected = torch.zeros_like(weight)
    expected[[1, 2]], expected[[3, 4]] = -1.0, 1.0
    torch.testing.assert_close(weight, expected)

    own = torch.arange(len(batch.labels))
    loss = losses.NTXentLoss()
    alone = gpw.weights(loss, batch.embeddings, batch.labels)
    beside = gpw.weights(
        loss, batch.embeddings, batch.labels, None, batch.embeddings, batch.labels, own=own
    )  # fmt: skip
    torch.testing.assert_close(beside.weight, alone.weight)
    assert torch.equal(beside.positive, alone.positive)


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        (torch.nn.MSELoss(), {}, "loss must be a PairLoss of fastdml.losses, got MSELoss"),
        (losses.TripletMarginLoss(swap=True), {}, "loss must not swap"),
        (losses.SupConLoss(), {"anchors": [100]}, "anchors must be indices from 0 to 99, got 100 to 100"),
        (losses.SupConLoss(), {"anchors": torch.tensor([0.5])}, "anchors must be indices, got torch.float32"),
        (losses.ContrastiveLoss(reducer=reducers.DoNothingReducer()), {}, "must be reduced"),
    ],
)
def test_what_is_refused(loss: Any, arguments: dict[str, Any], message: str) -> None:
    batch = make_batch("random")
    with pytest.raises(InputError, match=message):
        gpw.weights(loss, batch.embeddings, batch.labels, **arguments)


def test_plot_draws_every_pair_on_its_side() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    batch = make_batch("random")
    found = gpw.weights(losses.MultiSimilarityLoss(), batch.embeddings, batch.labels, 0)
    axes = found.plot()
    drawn = {points.get_label(): points.get_offsets() for points in axes.collections}
    for label, pairs in (("negatives, pushed", found.negative), ("positives, pulled", found.positive)):
        expected = torch.stack([found.similarity[pairs], found.weight[pairs]], dim=1)
        torch.testing.assert_close(torch.tensor(drawn[label].data), expected)
    assert found.plot(axes) is axes


def test_copies_and_zero_vectors_are_at_distance_zero_where_there_is_no_slope() -> None:
    embeddings = torch.zeros(4, 3, dtype=torch.float64)
    embeddings[2:, 0] = 2.0
    loss = losses.ContrastiveLoss(neg_margin=0.5, reducer="sum")
    found = gpw.weights(loss, embeddings, torch.tensor([0, 1, 0, 1]))
    # the zero vectors are negatives of each other, and so are the copies; only positives are apart
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for i, j in ((0, 2), (2, 0), (1, 3), (3, 1)):
        expected[i, j] = -1.0
    torch.testing.assert_close(found.weight, expected, rtol=1e-12, atol=0)
