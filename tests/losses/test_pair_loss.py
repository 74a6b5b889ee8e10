"""What holds for every loss: half precision, compilation, empty batches, bad input, printing and copying."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from loss_values import value_and_gradients
from torch import Tensor

import fastdml
from fastdml import distances, losses, miners, reducers
from pair_batches import Batch, make_batch

LOSSES = {
    "contrastive": losses.ContrastiveLoss(0.1, 1.2),
    "triplet": losses.TripletMarginLoss(0.2),
    "lifted structure": losses.LiftedStructureLoss(),
    "generalised lifted": losses.GeneralizedLiftedStructureLoss(),
    "n-pairs": losses.NPairsLoss(),
    "nt-xent": losses.NTXentLoss(),
    "supcon": losses.SupConLoss(),
    "circle": losses.CircleLoss(),
    "margin": losses.MarginLoss(beta=0.9),
    "binomial deviance": losses.BinomialDevianceLoss(),
    "multi-similarity": losses.MultiSimilarityLoss(epsilon=0.1),
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> losses.PairLoss:
    """Every loss in turn."""
    return LOSSES[request.param]


def test_float32_and_halves_come_near_float64(loss: losses.PairLoss) -> None:
    batch = make_batch("random")
    exact, exact_gradient = value_and_gradients(loss, batch)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)):
        value, gradient = value_and_gradients(loss, batch.to(dtype))
        assert gradient.dtype == dtype
        torch.testing.assert_close(value.double(), exact, rtol=tolerance, atol=tolerance * 0.1)
        away = (gradient.double() - exact_gradient).norm() / exact_gradient.norm()
        assert away < 3 * tolerance


def test_two_runs_are_bitwise_equal(loss: losses.PairLoss, backend: str) -> None:
    batch = make_batch("random").to(torch.float32)
    first, second = (value_and_gradients(loss, batch) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["random", "candidates"])
def test_what_needs_no_listing_compiles_as_one_graph(loss: losses.PairLoss, name: str) -> None:
    if isinstance(loss, losses.TripletMarginLoss | losses.LiftedStructureLoss | losses.NPairsLoss):
        pytest.skip("how many pairs it lists depends on the labels")
    torch.compiler.reset()
    batch = make_batch(name).to(torch.float32)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, expected = value_and_gradients(compiled, batch), value_and_gradients(loss, batch)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_changes_nothing(loss: losses.PairLoss, backend: str) -> None:
    batch = make_batch("random").to(torch.float32)

    def under_autocast(*arguments: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(*arguments)

    for a, b in zip(
        value_and_gradients(loss, batch), value_and_gradients(under_autocast, batch), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs_give_a_differentiable_zero(loss: losses.PairLoss, count: int, backend: str) -> None:
    batch = Batch(torch.randn(count, 8), torch.zeros(count, dtype=torch.int64))
    value, gradient = value_and_gradients(loss, batch)
    assert value == 0
    assert torch.equal(gradient, torch.zeros(count, 8))


def test_nan_in_nan_out(loss: losses.PairLoss, backend: str) -> None:
    batch = make_batch("random").to(torch.float32)
    batch.embeddings[torch.nonzero(batch.labels == batch.labels[0])[0], 3] = torch.nan
    value, gradient = value_and_gradients(loss, batch)
    assert value.isnan()
    assert gradient.isnan().any()


def test_rows_of_losses_sum_to_the_sum(loss: losses.PairLoss, backend: str) -> None:
    if isinstance(loss, losses.MultiSimilarityLoss | losses.NPairsLoss):
        pytest.skip("tested on its own, or one loss a class")
    batch, settings = make_batch("random"), {}
    if isinstance(loss, losses.MarginLoss):
        settings["beta"] = 0.9
    each = type(loss)(reducer="none", **settings)(*batch[:2])
    assert each.shape == (100,)
    torch.testing.assert_close(each.sum(), type(loss)(reducer="sum", **settings)(*batch[:2]))


def test_labels_may_be_left_out_where_pairs_are_listed(loss: losses.PairLoss) -> None:
    if isinstance(loss, losses.NPairsLoss | losses.MultiSimilarityLoss):
        pytest.skip("it needs the classes, or mines on its own")
    batch = make_batch("random")
    pairs = tuple(miners.TripletMarginMiner(0.1)(*batch[:2]))
    assert torch.equal(loss(batch.embeddings, None, pairs), loss(batch.embeddings, batch.labels, pairs))


def test_candidates_that_are_the_anchors_themselves(loss: losses.PairLoss, backend: str) -> None:
    if isinstance(loss, losses.NPairsLoss | losses.LiftedStructureLoss):
        pytest.skip("not with separate candidates, or not the same there")
    batch = make_batch("random")
    own = torch.arange(len(batch.labels))
    alone = loss(*batch[:2])
    against = loss(*batch[:2], None, batch.embeddings, batch.labels, own=own)
    torch.testing.assert_close(against, alone)


def test_modules_copy_pickle_and_print(loss: losses.PairLoss) -> None:
    batch = make_batch("random")
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(*batch[:2]), loss(*batch[:2]))
    assert type(loss).__name__ in repr(loss)


@pytest.mark.parametrize("kind", [type(loss) for loss in LOSSES.values()], ids=list(LOSSES))
def test_every_preset_can_be_trained_with(kind: type[losses.PairLoss]) -> None:
    batch = make_batch("random")
    for name in kind.presets:
        value, gradient = value_and_gradients(kind.preset(name), batch)
        assert value > 0
        assert gradient.abs().sum() > 0
    with pytest.raises(fastdml.InputError, match=r"preset must be one of .* got 'cvpr'"):
        kind.preset("cvpr")


def test_a_selection_that_was_mined_on_another_batch_is_refused() -> None:
    small, batch = make_batch("wide"), make_batch("random")
    for miner in (miners.MultiSimilarityMiner(), miners.BatchHardMiner(), miners.TripletMarginMiner()):
        pairs = miner(*small[:2])
        for loss in (losses.ContrastiveLoss(), losses.TripletMarginLoss(), losses.MarginLoss()):
            message = "must be mined on 100 anchors and 100 candidates, got a selection of 40 and 40"
            with pytest.raises(fastdml.InputError, match=message):
                loss(*batch[:2], pairs)


ROWS, LABELS = torch.randn(6, 4), torch.arange(6) // 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.SupConLoss()(ROWS),
            "labels must be given where indices_tuple is not, got None for both",
        ),
        (
            lambda: losses.NPairsLoss()(ROWS, LABELS, None, ROWS, LABELS),
            "ref_emb must be None for NPairsLoss",
        ),
        (
            lambda: losses.CircleLoss(distance=distances.LpDistance()),
            "distance of CircleLoss must be CosineSimilarity",
        ),
        (
            lambda: losses.CircleLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False)),
            "distance of CircleLoss must be a cosine similarity",
        ),
        (lambda: losses.SupConLoss(0), "temperature must be a positive number, got 0"),
        (lambda: losses.NTXentLoss(-1), "temperature must be a positive number, got -1"),
        (lambda: losses.CircleLoss(gamma=0), "gamma must be a positive number, got 0"),
        (lambda: losses.ContrastiveLoss(float("nan")), "pos_margin must be a finite number, got nan"),
        (lambda: losses.TripletMarginLoss(float("inf")), "margin must be a finite number, got inf"),
        (
            lambda: losses.TripletMarginLoss(triplets_per_anchor="some"),
            "triplets_per_anchor must be 'all' or",
        ),
        (
            lambda: losses.TripletMarginLoss(swap=True)(ROWS, LABELS, None, ROWS, LABELS),
            "swap",
        ),
        (lambda: losses.ContrastiveLoss(distance="cosine"), "distance must be CosineSimilarity.*got str"),
        (lambda: distances.LpDistance(p=1), r"got LpDistance\(p=1"),
        (lambda: losses.SupConLoss(reducer=reducers.DivisorReducer())(ROWS, LABELS), "DivisorReducer"),
        (lambda: losses.MarginLoss(reducer=reducers.PerAnchorReducer())(ROWS, LABELS), "PerAnchorReducer"),
        (lambda: reducers.ThresholdReducer(), "low or high must be given, got None for both"),
        (
            lambda: losses.SupConLoss()(ROWS, LABELS, None, ROWS, LABELS, own=LABELS[:3]),
            r"own must be int64 \[6\], got torch.int64 \[3\]",
        ),
        (lambda: losses.SupConLoss()(ROWS, LABELS, own=LABELS), "own must be None without ref_emb"),
        (
            lambda: miners.TripletMarginMiner(type_of_triplets="harder"),
            "type_of_triplets must be one of all,",
        ),
        (lambda: miners.BatchEasyHardMiner("semihard", "semihard"), "neg_strategy must be 'hard' or 'easy'"),
        (lambda: miners.BatchEasyHardMiner("best"), "pos_strategy must be one of hard, .* got 'best'"),
        (lambda: miners.PairMarginMiner(float("inf")), "pos_margin must be a finite number, got inf"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("backend", ["cpu", "blocked", "reference"])
def test_contrastive_as_in_the_paper(backend: str) -> None:
    batch = make_batch("random")
    x = batch.embeddings / 4
    d, same = torch.cdist(x, x), batch.labels[:, None] == batch.labels[None, :]
    pulled = same & ~torch.eye(len(x), dtype=torch.bool)
    expected = (d[pulled] ** 2 / 2).mean() + ((1 - d[~same]).clamp_min(0) ** 2 / 2).mean()
    with fastdml.use_backend(backend if backend != "cpu" else "blocked"):  # rows of any length have no kernel
        found = losses.ContrastiveLoss.preset("paper")(x, batch.labels)
    torch.testing.assert_close(found, expected)
    unit = torch.nn.functional.normalize(x)
    with fastdml.use_backend(backend):
        single = losses.ContrastiveLoss(squared=True, reducer="none")(x, batch.labels)
    d = torch.cdist(unit, unit)
    rows = torch.where(pulled, d**2 / 2, 0).sum(1) + torch.where(same, 0, (1 - d).clamp_min(0) ** 2 / 2).sum(
        1
    )
    torch.testing.assert_close(single, rows)
