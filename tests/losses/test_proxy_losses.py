"""The losses with centres of classes against pytorch-metric-learning, on every backend that runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastdml
from fastdml import losses
from fastdml.losses.centered import CenteredLoss

pml = pytest.importorskip("pytorch_metric_learning.losses")
from pytorch_metric_learning import distances, miners, reducers, regularizers  # noqa: E402

CLASSES, WIDTH = 13, 16

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "soft-triple": ("SoftTripleLoss", {}),
    "soft-triple, two centres": ("SoftTripleLoss", {"centers_per_class": 2, "la": 5, "gamma": 0.5}),
    "normalised softmax": ("NormalizedSoftmaxLoss", {}),
    "proxy-nca": ("ProxyNCALoss", {}),
    "proxy-nca, sharper": ("ProxyNCALoss", {"softmax_scale": 9}),
    "arcface": ("ArcFaceLoss", {}),
    "cosface": ("CosFaceLoss", {}),
    "sphereface": ("SphereFaceLoss", {}),
    "sphereface, twice": ("SphereFaceLoss", {"margin": 2, "scale": 3}),
    "sub-centre arcface": ("SubCenterArcFaceLoss", {}),
    "proxy-anchor": ("ProxyAnchorLoss", {}),
}
DISTANCES = {
    "soft-triple": "DotProductSimilarity",
    "normalised softmax": "DotProductSimilarity",
    "proxy-nca": "LpDistance",
    "proxy-anchor": "LpDistance",
}
with_backends = pytest.mark.parametrize("backend", ["cpu", "blocked", "reference"])
of_all = pytest.mark.parametrize("name", LOSSES)


def pair_of(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, CenteredLoss]:
    """The loss of pytorch-metric-learning and ours, with its centres."""
    kind, arguments = LOSSES[name]
    torch.manual_seed(3)
    theirs = getattr(pml, kind)(num_classes=CLASSES, embedding_size=WIDTH, **arguments, **options)
    ours = getattr(losses, kind)(CLASSES, WIDTH, **arguments, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


def batch(count: int = 24, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    embeddings = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) + 0.2
    return embeddings.to(dtype), torch.randint(CLASSES, (count,), generator=generator)


def value_and_gradients(
    loss: Any, embeddings: Tensor, labels: Tensor, *rest: Any, **named: Any
) -> list[Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    (parameter,) = loss.parameters()
    value = loss(embeddings, labels, *rest, **named)
    return [value.detach(), *torch.autograd.grad(value, (embeddings, parameter))]


def assert_same(found: list[Tensor], wanted: list[Tensor], rtol: float = 1e-9) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


@with_backends
@of_all
def test_equals_pml(name: str, backend: str) -> None:
    theirs, ours = pair_of(name)
    wanted = value_and_gradients(theirs, *batch())
    with fastdml.use_backend(backend):
        assert_same(value_and_gradients(ours, *batch()), wanted)


@of_all
def test_equals_pml_in_float32(name: str) -> None:
    theirs, ours = pair_of(name, torch.float32)
    data = batch(dtype=torch.float32)
    assert_same(value_and_gradients(ours, *data), value_and_gradients(theirs, *data), 2e-5)


@of_all
def test_parameters_come_from_pml_and_go_back(name: str) -> None:
    theirs, ours = pair_of(name)
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    for parameter in ours.parameters():
        parameter.data.add_(1.0)
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@of_all
def test_fresh_centres_are_distributed_as_in_pml(name: str) -> None:
    kind, arguments = LOSSES[name]
    sizes = {"num_classes": 400, "embedding_size": 32}
    theirs = getattr(pml, kind)(**sizes, **arguments)
    ours = getattr(losses, kind)(**sizes, **arguments)
    (a,), (b,) = ours.parameters(), theirs.parameters()
    assert a.shape == b.shape
    torch.testing.assert_close(a.std(), b.std(), rtol=0.05, atol=0)
    torch.testing.assert_close(a.abs().max() / a.std(), b.abs().max() / b.std(), rtol=0.3, atol=0)


@of_all
def test_logits_equal_pml(name: str) -> None:
    theirs, ours = pair_of(name)
    embeddings, _ = batch()
    torch.testing.assert_close(ours.get_logits(embeddings), theirs.get_logits(embeddings))


@pytest.mark.parametrize(
    "reducer",
    [
        lambda: reducers.SumReducer(),
        lambda: reducers.AvgNonZeroReducer(),
        lambda: reducers.ThresholdReducer(low=1.0, high=20.0),
        lambda: reducers.ClassWeightedReducer(torch.arange(CLASSES, dtype=torch.float64)),
        lambda: reducers.PerAnchorReducer(),
    ],
    ids=["sum", "non-zero", "threshold", "class weights", "per anchor"],
)
@pytest.mark.parametrize("name", ["soft-triple", "arcface", "proxy-nca"])
def test_reducers_equal_pml(name: str, reducer: Callable[[], Any]) -> None:
    theirs, ours = pair_of(name, reducer=reducer())
    assert_same(value_and_gradients(ours, *batch()), value_and_gradients(theirs, *batch()))


@pytest.mark.parametrize("name", ["soft-triple", "proxy-anchor"])
def test_single_losses_equal_pml(name: str) -> None:
    theirs, ours = pair_of(name, reducer=reducers.DoNothingReducer())
    found, wanted = ours(*batch()), theirs(*batch())
    assert found.keys() == wanted.keys()
    for kind, one in found.items():
        torch.testing.assert_close(one["losses"], wanted[kind]["losses"])
        assert torch.equal(one["indices"], wanted[kind]["indices"])
        assert one["reduction_type"] == wanted[kind]["reduction_type"]


@of_all
@pytest.mark.parametrize("miner", [lambda: miners.MultiSimilarityMiner(), lambda: miners.BatchHardMiner()])
def test_mined_weights_equal_pml(name: str, miner: Callable[[], Any]) -> None:
    theirs, ours = pair_of(name)
    mined = miner()(*batch())
    assert_same(value_and_gradients(ours, *batch(), mined), value_and_gradients(theirs, *batch(), mined))


def test_a_miner_of_our_own_weighs_as_theirs() -> None:
    theirs, ours = pair_of("soft-triple")
    wanted = value_and_gradients(theirs, *batch(), miners.MultiSimilarityMiner()(*batch()))
    mined = fastdml.miners.MultiSimilarityMiner()(*batch())
    assert_same(value_and_gradients(ours, *batch(), mined), wanted)


@pytest.mark.parametrize("name", ["soft-triple", "proxy-nca", "proxy-anchor"])
def test_regularisers_equal_pml(name: str) -> None:
    options = {
        "weight_regularizer": regularizers.LpRegularizer(),
        "weight_reg_weight": 0.3,
        "embedding_regularizer": regularizers.LpRegularizer(),
        "embedding_reg_weight": 0.2,
    }
    theirs, ours = pair_of(name, **options)
    assert_same(value_and_gradients(ours, *batch()), value_and_gradients(theirs, *batch()))


@with_backends
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", DISTANCES)
def test_distances_equal_pml(name: str, normalised: bool, backend: str) -> None:
    power = {"power": 2} if DISTANCES[name] == "LpDistance" else {}
    distance = getattr(distances, DISTANCES[name])(normalize_embeddings=normalised, **power)
    theirs, ours = pair_of(name, distance=distance)
    wanted = value_and_gradients(theirs, *batch())
    if (name, normalised, backend) == ("proxy-anchor", False, "cpu"):
        backend = "blocked"  # squared distances of rows of any length have no kernels
    with fastdml.use_backend(backend):
        assert_same(value_and_gradients(ours, *batch()), wanted)
    torch.testing.assert_close(ours.get_logits(batch()[0]), theirs.get_logits(batch()[0]))


def test_outliers_equal_pml() -> None:
    theirs, ours = pair_of("sub-centre arcface")
    embeddings, labels = batch(60)
    for threshold in (75, 85):
        found, wanted = (loss.get_outliers(embeddings, labels, threshold) for loss in (ours, theirs))
        assert sorted(found[0].tolist()) == sorted(wanted[0].tolist())
        seen = labels.unique()
        torch.testing.assert_close(found[1][:, seen], wanted[1][:, seen])
        assert len(found[0]) > 0


def test_sparse_centers_regulariser_is_tau() -> None:
    regulariser = regularizers.SparseCentersRegularizer(CLASSES, 10)
    torch.manual_seed(3)
    theirs = pml.SoftTripleLoss(
        CLASSES, WIDTH, weight_regularizer=regulariser, weight_reg_weight=0.2
    ).double()
    ours = losses.SoftTripleLoss.preset("paper", num_classes=CLASSES, embedding_size=WIDTH).double()
    ours.load_state_dict({"fc": theirs.fc.detach()})
    # the 1e-5 under our roots is all that differs
    assert_same(value_and_gradients(ours, *batch()), value_and_gradients(theirs, *batch()), 1e-4)
