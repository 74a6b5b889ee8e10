"""Every loss with every distance, reducer and miner, held against pytorch-metric-learning 2.9."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from loss_values import value_and_gradients
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers as pml_reducers
from pytorch_metric_learning import regularizers as pml_regularizers

from fastdml import distances, losses, miners, reducers
from pair_batches import BATCHES, Batch, make_batch


class Twins(NamedTuple):
    """A loss here and there; ``cubic``: theirs holds N^3 numbers."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    arguments: dict[str, Any] = {}  # noqa: RUF012
    cubic: bool = False


def twins(name: str, cubic: bool = False, **arguments: Any) -> Twins:
    return Twins(getattr(losses, name), getattr(pml_losses, name), arguments, cubic)


LOSSES = {
    "contrastive": twins("ContrastiveLoss"),
    "contrastive, margins": twins("ContrastiveLoss", pos_margin=0.2, neg_margin=1.3),
    "triplet": twins("TripletMarginLoss", cubic=True),
    "triplet, margin": twins("TripletMarginLoss", cubic=True, margin=0.3),
    "triplet, smooth": twins("TripletMarginLoss", cubic=True, smooth_loss=True),
    "triplet, swap": twins("TripletMarginLoss", cubic=True, swap=True, margin=0.2),
    "lifted structure": twins("LiftedStructureLoss", cubic=True),
    "lifted structure, margins": twins("LiftedStructureLoss", cubic=True, neg_margin=1.2, pos_margin=0.1),
    "generalised lifted": twins("GeneralizedLiftedStructureLoss"),
    "generalised lifted, margins": twins("GeneralizedLiftedStructureLoss", neg_margin=0.7, pos_margin=0.3),
    "n-pairs": twins("NPairsLoss"),
    "nt-xent": twins("NTXentLoss", cubic=True),
    "nt-xent, warm": twins("NTXentLoss", cubic=True, temperature=0.5),
    "supcon": twins("SupConLoss"),
    "supcon, cold": twins("SupConLoss", temperature=0.05),
    "circle": twins("CircleLoss"),
    "circle, face": twins("CircleLoss", m=0.25, gamma=256),
    "margin": twins("MarginLoss", cubic=True),
    "margin, learnt": twins("MarginLoss", cubic=True, learn_beta=True, nu=0.1, beta=0.9),
    "multi-similarity": twins("MultiSimilarityLoss"),
}
DISTANCES = {
    "cosine": (distances.CosineSimilarity(), pml_distances.CosineSimilarity()),
    "dot product": (
        distances.DotProductSimilarity(normalize_embeddings=False),
        pml_distances.DotProductSimilarity(normalize_embeddings=False),
    ),
    "euclidean": (distances.LpDistance(), pml_distances.LpDistance()),
    "squared": (distances.LpDistance(power=2), pml_distances.LpDistance(power=2)),
    "euclidean, as given": (
        distances.LpDistance(normalize_embeddings=False),
        pml_distances.LpDistance(normalize_embeddings=False),
    ),
    "squared, as given": (
        distances.LpDistance(normalize_embeddings=False, power=2),
        pml_distances.LpDistance(normalize_embeddings=False, power=2),
    ),
}
WEIGHTS = torch.linspace(0.5, 2, 200)


class Flat:
    """Makes a reducer see one loss an entry: some are columns [T, 1] there, which weights broadcast."""

    def unpack_loss_info(self, loss_info: dict[str, Any]) -> tuple[Any, ...]:
        losses, *rest = super().unpack_loss_info(loss_info)  # type: ignore[misc]
        return (losses.reshape(-1) if isinstance(losses, torch.Tensor) else losses, *rest)


class FlatClassWeighted(Flat, pml_reducers.ClassWeightedReducer):
    pass


class FlatPerAnchor(Flat, pml_reducers.PerAnchorReducer):
    pass


REDUCERS = {
    "mean": (reducers.MeanReducer(), pml_reducers.MeanReducer()),
    "sum": (reducers.SumReducer(), pml_reducers.SumReducer()),
    "non-zero": (reducers.AvgNonZeroReducer(), pml_reducers.AvgNonZeroReducer()),
    "threshold": (reducers.ThresholdReducer(0.1, 0.6), pml_reducers.ThresholdReducer(0.1, 0.6)),
    "class-weighted": (reducers.ClassWeightedReducer(WEIGHTS), FlatClassWeighted(WEIGHTS)),
    "per anchor": (reducers.PerAnchorReducer(), FlatPerAnchor()),
    "theirs": (pml_reducers.MeanReducer(), pml_reducers.MeanReducer()),
}
MINERS = {
    "multi-similarity": ("MultiSimilarityMiner", {"epsilon": 0.1}),
    "multi-similarity, tight": ("MultiSimilarityMiner", {"epsilon": -0.2}),
    "pair margin": ("PairMarginMiner", {"pos_margin": 0.3, "neg_margin": 1.1}),
    "batch hard": ("BatchHardMiner", {}),
    "easy and semi-hard": ("BatchEasyHardMiner", {}),
    "hard and easy": ("BatchEasyHardMiner", {"pos_strategy": "hard", "neg_strategy": "easy"}),
    "semi-hard and hard": ("BatchEasyHardMiner", {"pos_strategy": "semihard", "neg_strategy": "hard"}),
    "all and hard": ("BatchEasyHardMiner", {"pos_strategy": "all", "neg_strategy": "hard"}),
    "easy and all": ("BatchEasyHardMiner", {"pos_strategy": "easy", "neg_strategy": "all"}),
    "in a range": (
        "BatchEasyHardMiner",
        {"pos_strategy": "easy", "neg_strategy": "hard", "allowed_pos_range": (0.3, 0.9)},
    ),
    "triplets": ("TripletMarginMiner", {}),
    "hard triplets": ("TripletMarginMiner", {"type_of_triplets": "hard"}),
    "semi-hard triplets": ("TripletMarginMiner", {"type_of_triplets": "semihard"}),
    "easy triplets": ("TripletMarginMiner", {"type_of_triplets": "easy"}),
}
# Theirs gives 0 by rule where every list of pairs has at most one entry, and divides rounding by rounding
# where all similarities are 1 or -1.
UNFIT = ("one sample", "one pair", "one candidate", "one column")
LARGE = ("several blocks", "half in one class", "one class", "more anchors than candidates")


def assert_same(ours: Any, theirs: Any, batch: Batch, our_miner: Any = None, their_miner: Any = None) -> None:
    found = value_and_gradients(ours, batch, our_miner)
    expected = value_and_gradients(theirs, batch, their_miner)
    for a, b in zip(found, expected, strict=True):
        # a Euclidean distance loses half the digits of the rounding of its square where rows coincide
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * float(b.abs().max()) + 1e-12)


def skip_unfit(name: str, loss: str, with_miner: bool = False) -> None:
    if name in UNFIT or (LOSSES[loss].cubic and name in LARGE):
        pytest.skip("pytorch-metric-learning has a rule of its own there, or not the memory")
    if loss == "contrastive" and name in ("duplicates", "zero vectors"):
        pytest.skip("distances of exactly a margin, which rounding puts on either side")
    batch = make_batch(name)
    if batch.ref_embeddings is not None and (
        loss.startswith(("n-pairs", "lifted")) or loss == "triplet, swap"
    ):
        pytest.skip("not with separate candidates")


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_batch(loss: str, name: str) -> None:
    skip_unfit(name, loss)
    ours, theirs, arguments, _ = LOSSES[loss]
    assert_same(ours(**arguments), theirs(**arguments), make_batch(name))


@pytest.mark.parametrize("name", ["some without positives", "candidates"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_distance(loss: str, distance: str, name: str) -> None:
    skip_unfit(name, loss)
    ours, theirs, arguments, _ = LOSSES[loss]
    if loss.startswith("circle") and distance != "cosine":
        pytest.skip("circle is for cosine similarity")
    if (loss, distance, name) == ("nt-xent", "squared, as given", "candidates"):
        pytest.skip("losses beyond 708, where theirs ends")
    our_distance, their_distance = DISTANCES[distance]
    found, expected = ours(**arguments, distance=our_distance), theirs(**arguments, distance=their_distance)
    assert_same(found, expected, make_batch(name))
    # an object of theirs is taken as it is
    assert_same(ours(**arguments, distance=their_distance), expected, make_batch(name))


@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_reducer(loss: str, reducer: str) -> None:
    ours, theirs, arguments, cubic = LOSSES[loss]
    if reducer == "per anchor" and cubic and not loss.startswith(("nt-xent", "lifted")):
        pytest.skip("not for triplets, there as here")
    our_reducer, their_reducer = REDUCERS[reducer]
    if loss == "margin, learnt" and reducer != "mean":
        pytest.skip("its regularisation is a number of its own")
    assert_same(
        ours(**arguments, reducer=our_reducer),
        theirs(**arguments, reducer=their_reducer),
        make_batch("some without positives" if cubic else "random"),
    )


@pytest.mark.parametrize("name", ["candidates", "some without positives"])
@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_miner(loss: str, miner: str, name: str) -> None:
    skip_unfit(name, loss)
    ours, theirs, arguments, _ = LOSSES[loss]
    kind, settings = MINERS[miner]
    batch = make_batch(name)
    if kind == "TripletMarginMiner" and loss.startswith(("lifted", "nt-xent")):
        if name == "candidates":
            pytest.skip("theirs compares every listed pair with every other")
        batch = Batch(batch.embeddings[12:36], batch.labels[12:36])  # of which 6 without positives
    assert_same(
        ours(**arguments),
        theirs(**arguments),
        batch,
        getattr(miners, kind)(**settings),
        getattr(pml_miners, kind)(**settings),
    )


@pytest.mark.parametrize("name", ["random", "candidates", "half in one class", "some without positives"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "squared, as given"])
@pytest.mark.parametrize("miner", MINERS)
def test_unpacked_miners_list_their_pairs(miner: str, distance: str, name: str) -> None:
    kind, settings = MINERS[miner]
    if kind == "TripletMarginMiner" and name in LARGE:
        pytest.skip("too many triplets")
    our_distance, their_distance = DISTANCES[distance]
    batch = make_batch(name)
    found = getattr(miners, kind)(**settings, distance=our_distance)(*batch)
    expected = getattr(pml_miners, kind)(**settings, distance=their_distance)(*batch)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.int64
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("loss", LOSSES)
def test_real_index_tuples(loss: str) -> None:
    ours, theirs, arguments, _ = LOSSES[loss]
    batch = make_batch("some without positives")
    pairs = pml_miners.MultiSimilarityMiner(-0.2)(*batch[:2])
    triplets = tuple(index[::5] for index in pml_miners.TripletMarginMiner()(*batch[:2]))
    assert len(triplets[0]) > 100
    repeated = tuple(torch.cat([index, index[:50]]) for index in triplets)
    for indices in (pairs, triplets, repeated):
        assert_same(
            ours(**arguments), theirs(**arguments), batch, lambda *_, i=indices: i, lambda *_, i=indices: i
        )


@pytest.mark.parametrize("loss", ["contrastive", "multi-similarity", "triplet", "margin, learnt", "n-pairs"])
def test_embedding_regularizers(loss: str) -> None:
    ours, theirs, arguments, _ = LOSSES[loss]
    regularizer = pml_regularizers.LpRegularizer()
    arguments = {**arguments, "embedding_regularizer": regularizer, "embedding_reg_weight": 0.3}
    if loss == "margin, learnt":
        arguments["reducer"] = pml_reducers.MeanReducer()
    assert_same(ours(**arguments), theirs(**arguments), make_batch("random"))


@pytest.mark.parametrize("classes", [None, 12])
def test_the_gradient_of_a_learnt_boundary(classes: int | None) -> None:
    batch = make_batch("random")
    settings = {"learn_beta": True, "nu": 0.05, "beta": 0.8, "num_classes": classes}
    gradients = []
    for module in (losses.MarginLoss(**settings), pml_losses.MarginLoss(**settings)):
        module.double()
        module(*batch[:2]).backward()
        gradients.append(module.beta.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("classes", [None, 12])
@pytest.mark.parametrize("name", ["threshold", "several", "theirs", "nothing"])
def test_every_reducer_keeps_the_regularisation_of_a_boundary(name: str, classes: int | None) -> None:
    batch, several = make_batch("random"), ("margin_loss", "beta_reg_loss")
    made: dict[str, tuple[Any, Any]] = {
        "threshold": (reducers.ThresholdReducer(low=0.05), pml_reducers.ThresholdReducer(low=0.05)),
        "several": (
            reducers.MultipleReducers(
                dict(zip(several, [reducers.ThresholdReducer(low=0.05), reducers.SumReducer()], strict=True))
            ),
            pml_reducers.MultipleReducers(
                dict(
                    zip(
                        several,
                        [pml_reducers.ThresholdReducer(low=0.05), pml_reducers.SumReducer()],
                        strict=True,
                    )
                )
            ),
        ),
        "theirs": (pml_reducers.DivisorReducer(), pml_reducers.DivisorReducer()),
        "nothing": (reducers.DoNothingReducer(), pml_reducers.DoNothingReducer()),
    }
    settings = {"learn_beta": True, "nu": 0.05, "beta": 0.8, "num_classes": classes}
    ours, theirs = made[name]
    module = losses.MarginLoss(**settings, reducer=ours).double()
    expected = pml_losses.MarginLoss(**settings, reducer=theirs).double()
    found, wanted = module(*batch[:2]), expected(*batch[:2])
    if name == "nothing":
        for kind, described in wanted.items():
            assert found[kind]["reduction_type"] == described["reduction_type"]
            torch.testing.assert_close(found[kind]["losses"], described["losses"].reshape(-1))
        return
    torch.testing.assert_close(found.squeeze(), wanted.squeeze())
    found.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(module.beta.grad, expected.beta.grad)


@pytest.mark.parametrize("loss", ["contrastive", "nt-xent", "supcon", "triplet", "n-pairs"])
def test_do_nothing_gives_every_single_loss(loss: str) -> None:
    ours, theirs, arguments, _ = LOSSES[loss]
    batch = make_batch("random")
    found = ours(**arguments, reducer=reducers.DoNothingReducer())(*batch[:2])
    expected = theirs(**arguments, reducer=pml_reducers.DoNothingReducer())(*batch[:2])
    assert found.keys() == expected.keys()
    for name, described in expected.items():
        assert found[name]["reduction_type"] == described["reduction_type"]
        torch.testing.assert_close(found[name]["losses"], described["losses"].reshape(-1))
        ours_at, theirs_at = found[name]["indices"], described["indices"]
        if described["reduction_type"] == "element":
            assert torch.equal(ours_at, theirs_at)
        else:
            assert all(torch.equal(a, b) for a, b in zip(ours_at, theirs_at, strict=True))
