"""The module that users import, held against pytorch-metric-learning 2.9."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from loss_values import value_and_gradients
from pytorch_metric_learning import distances, reducers
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from torch import Tensor

import fastdml
from fastdml.losses import MultiSimilarityLoss
from fastdml.miners import MinedPairs, MultiSimilarityMiner
from pair_batches import Batch, make_batch

BACKENDS = [name for name in ("cpu", "reference") if name in fastdml.available_backends()]


@pytest.mark.parametrize("mining", ["no miner", "miner", "epsilon"])
@pytest.mark.parametrize(
    "arguments", [{}, {"alpha": 1.5, "beta": 30, "base": 0.7}], ids=["defaults", "others"]
)
def test_values_and_gradients_of_pml(
    batch: Batch, backend: str, mining: str, arguments: dict[str, float]
) -> None:
    if 1 in (
        len(batch.embeddings),
        len(batch.embeddings if batch.ref_embeddings is None else batch.ref_embeddings),
    ):
        pytest.skip("PML gives 0 by rule where every list of pairs has at most one entry")
    theirs = value_and_gradients(
        pml_losses.MultiSimilarityLoss(**arguments),
        batch,
        None if mining == "no miner" else pml_miners.MultiSimilarityMiner(0.1),
    )
    ours = value_and_gradients(
        MultiSimilarityLoss(**arguments, epsilon=0.1 if mining == "epsilon" else None),
        batch,
        MultiSimilarityMiner(0.1) if mining == "miner" else None,
    )
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_an_unpacked_miner_lists_pml_s_pairs(batch: Batch) -> None:
    for epsilon in (0.1, -0.2):
        ours = MultiSimilarityMiner(epsilon)(*batch)
        theirs = pml_miners.MultiSimilarityMiner(epsilon)(*batch)
        assert isinstance(ours, MinedPairs)
        a1, p, a2, n = ours
        for (anchors, others), (their_anchors, their_others) in (
            ((a1, p), theirs[:2]),
            ((a2, n), theirs[2:]),
        ):
            found = torch.stack([anchors, others]).T.tolist()
            assert sorted(found) == sorted(torch.stack([their_anchors, their_others]).T.tolist())
            assert anchors.dtype == torch.int64


def test_pairs_are_listed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch("candidates")
    whole = tuple(MultiSimilarityMiner()(*batch))
    monkeypatch.setattr("fastdml.miners.base.CPU_BLOCK", 7 * 110)
    for a, b in zip(whole, MultiSimilarityMiner()(*batch), strict=True):
        assert torch.equal(a, b)


def test_a_lazy_miner_is_fused_also_when_it_saw_detached_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(pairs: MinedPairs) -> None:
        raise AssertionError("the pairs were listed")

    batch = make_batch("random")
    monkeypatch.setattr(MinedPairs, "_list", listed)
    loss, miner = MultiSimilarityLoss(), MultiSimilarityMiner(0.1)
    expected = MultiSimilarityLoss(epsilon=0.1)(*batch[:2])
    assert loss(*batch[:2], miner(*batch[:2])) == expected
    assert loss(*batch[:2], miner(batch.embeddings.detach(), batch.labels)) == expected
    with pytest.raises(AssertionError, match="listed"):
        loss(*batch[:2], miner(batch.embeddings.clone(), batch.labels))


def test_a_lazy_miner_over_other_embeddings_selects_by_those(backend: str) -> None:
    batch = make_batch("random")
    others = batch.embeddings.flip(1)
    pairs = MultiSimilarityMiner(-0.2)(others, batch.labels)
    theirs = pml_miners.MultiSimilarityMiner(-0.2)(others, batch.labels)
    expected = pml_losses.MultiSimilarityLoss()(*batch[:2], theirs)
    torch.testing.assert_close(MultiSimilarityLoss()(*batch[:2], pairs), expected)


def test_real_index_tuples_are_honoured(backend: str) -> None:
    batch, ours, theirs = make_batch("random"), MultiSimilarityLoss(), pml_losses.MultiSimilarityLoss()
    pairs = pml_miners.MultiSimilarityMiner(-0.2)(*batch[:2])
    triplets = pml_miners.TripletMarginMiner()(*batch[:2])
    assert len(triplets[0]) > 0
    for indices in (pairs, triplets, tuple(MultiSimilarityMiner(-0.2)(*batch[:2]))):
        torch.testing.assert_close(ours(*batch[:2], indices), theirs(*batch[:2], indices))


@pytest.mark.parametrize(
    "reducer", [reducers.MeanReducer(), reducers.SumReducer(), reducers.AvgNonZeroReducer()]
)
def test_reducers_and_distance_of_pml_are_honoured(reducer: Any, backend: str) -> None:
    batch = make_batch("some without positives")
    ours = MultiSimilarityLoss(epsilon=0.1, reducer=reducer, distance=distances.CosineSimilarity())
    theirs = pml_losses.MultiSimilarityLoss(reducer=reducer)
    expected = theirs(*batch[:2], pml_miners.MultiSimilarityMiner()(*batch[:2]))
    torch.testing.assert_close(ours(*batch[:2]), expected)


def test_reductions(backend: str) -> None:
    batch = make_batch("random")
    each = MultiSimilarityLoss(reduction="none")(*batch[:2])
    assert each.shape == (100,)
    torch.testing.assert_close(MultiSimilarityLoss(reduction="sum")(*batch[:2]), each.sum())
    torch.testing.assert_close(MultiSimilarityLoss()(*batch[:2]), each.mean())
    embeddings, upstream = batch.embeddings.requires_grad_(), torch.rand(100, dtype=torch.float64)
    losses = MultiSimilarityLoss(reduction="none")(embeddings, batch.labels)
    (found,) = torch.autograd.grad(losses, embeddings, upstream)
    with fastdml.use_backend("reference"):
        losses = MultiSimilarityLoss(reduction="none")(embeddings, batch.labels)
    (expected,) = torch.autograd.grad(losses, embeddings, upstream)
    torch.testing.assert_close(found, expected)


def test_presets() -> None:
    batch = make_batch("duplicates")
    pml, official, paper = (MultiSimilarityLoss.preset(name) for name in ("pml", "official", "paper"))
    assert (pml.alpha, pml.beta, pml.base, pml.epsilon, pml.duplicate) == (2, 50, 0.5, None, None)
    assert (official.beta, official.epsilon) == (40, 0.1)
    assert (paper.base, paper.epsilon) == (1, 0.1)
    assert MultiSimilarityLoss.preset("paper", epsilon=0.2).epsilon == 0.2
    every_pair = {"beta": 40, "epsilon": 2.0}
    without_copies = MultiSimilarityLoss.preset("official", **every_pair)
    assert without_copies(*batch[:2]) < MultiSimilarityLoss(**every_pair)(*batch[:2]) - 0.01
    with pytest.raises(fastdml.InputError, match="preset must be one of pml, official, paper, got 'cvpr'"):
        MultiSimilarityLoss.preset("cvpr")


@pytest.mark.parametrize("name", ["random", "candidates"])
def test_compiles_as_one_graph(name: str, backend: str) -> None:
    torch.compiler.reset()
    batch, loss, miner = make_batch(name).to(torch.float32), MultiSimilarityLoss(), MultiSimilarityMiner()

    def step(embeddings: Tensor, labels: Tensor, ref: Tensor | None, ref_labels: Tensor | None) -> Tensor:
        return loss(embeddings, labels, miner(embeddings, labels, ref, ref_labels), ref, ref_labels)

    # inductor's own code is compiled once: it costs seconds, and the graph is what is tested
    with_inductor = name == "random" and backend == "cpu"
    compiled = torch.compile(step, fullgraph=True, backend="inductor" if with_inductor else "aot_eager")
    found = value_and_gradients(
        lambda x, y, _, ref_emb=None, ref_labels=None: compiled(x, y, ref_emb, ref_labels), batch
    )
    expected = value_and_gradients(loss, batch, miner)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_keeps_the_embeddings_dtype(backend: str) -> None:
    batch = make_batch("random").to(torch.float32)
    loss = MultiSimilarityLoss(epsilon=0.1)

    def under_autocast(*arguments: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(*arguments)

    for a, b in zip(
        value_and_gradients(loss, batch), value_and_gradients(under_autocast, batch), strict=True
    ):
        assert torch.equal(a, b)


def test_inference_mode(backend: str) -> None:
    batch = make_batch("several blocks").to(torch.float32)
    expected = MultiSimilarityLoss(epsilon=0.1)(*batch[:2])
    with torch.inference_mode():
        copied = batch.embeddings.clone()
        assert torch.equal(MultiSimilarityLoss(epsilon=0.1)(copied, batch.labels), expected)


def test_gradients_accumulate_and_graphs_are_retained(backend: str) -> None:
    batch = make_batch("random").to(torch.float32)
    embeddings = batch.embeddings.requires_grad_()
    value = MultiSimilarityLoss(epsilon=0.1)(embeddings, batch.labels)
    value.backward(retain_graph=True)
    once = embeddings.grad.clone()
    value.backward()
    torch.testing.assert_close(embeddings.grad, 2 * once)


def test_second_derivatives_are_refused_by_name_and_right_in_the_reference() -> None:
    batch = make_batch("random")
    embeddings = batch.embeddings.requires_grad_()
    if "cpu" in BACKENDS:
        (first,) = torch.autograd.grad(
            MultiSimilarityLoss()(embeddings, batch.labels), embeddings, create_graph=True
        )
        with pytest.raises(NotImplementedError, match=r"once, not twice.*use_backend\('reference'\)"):
            first.square().sum().backward()
    with fastdml.use_backend("reference"):
        (first,) = torch.autograd.grad(
            MultiSimilarityLoss()(embeddings, batch.labels), embeddings, create_graph=True
        )
    first.square().sum().backward()
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_labels_of_any_integer_dtype(dtype: torch.dtype, backend: str) -> None:
    batch = make_batch("random")
    assert torch.equal(
        MultiSimilarityLoss()(batch.embeddings, batch.labels.to(dtype)), MultiSimilarityLoss()(*batch[:2])
    )


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("miner", [None, MultiSimilarityMiner()])
def test_no_pairs_give_a_differentiable_zero(count: int, miner: Any, backend: str) -> None:
    batch = Batch(torch.randn(count, 8), torch.zeros(count, dtype=torch.int64))
    value, gradient = value_and_gradients(MultiSimilarityLoss(), batch, miner)
    assert value == 0
    assert torch.equal(gradient, torch.zeros(count, 8))


def test_no_candidates_give_a_differentiable_zero(backend: str) -> None:
    batch = Batch(torch.randn(4, 8), torch.arange(4), torch.randn(0, 8), torch.zeros(0, dtype=torch.int64))
    value, gradient, _ = value_and_gradients(MultiSimilarityLoss(), batch, MultiSimilarityMiner())
    assert value == 0
    assert torch.equal(gradient, torch.zeros(4, 8))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no native extension here")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_embeddings_give_a_float32_loss_and_half_gradients(dtype: torch.dtype) -> None:
    batch = make_batch("random").to(dtype)
    value, gradient = value_and_gradients(MultiSimilarityLoss(), batch)
    exact, exact_gradient = value_and_gradients(MultiSimilarityLoss(), batch.to(torch.float32))
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value, exact)
    torch.testing.assert_close(gradient, exact_gradient.to(dtype))


def test_modules_copy_pickle_and_print() -> None:
    loss = MultiSimilarityLoss(beta=40, epsilon=0.1)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.rule() == loss.rule()
        assert other.selection == loss.selection
    assert repr(loss).splitlines()[1].strip() == "alpha=2, beta=40, base=0.5, epsilon=0.1"
    assert repr(MultiSimilarityMiner()) == "MultiSimilarityMiner(epsilon=0.1)"
    assert list(loss.state_dict()) == []


ROWS, LABELS = torch.randn(6, 4), torch.arange(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.randn(6), LABELS), r"embeddings must have shape \[N, D\], got \[6\]"),
        (([[1.0]], LABELS), r"embeddings must be a tensor of shape \[N, D\], got list"),
        ((ROWS.to(torch.int32), LABELS), "embeddings must be one of float32, .*, got int32"),
        ((ROWS, LABELS[:5]), r"labels must have shape \[6\], got \[5\]"),
        ((ROWS, LABELS[:, None]), r"labels must have shape \[6\], got \[6, 1\]"),
        ((ROWS, LABELS.float()), "labels must be one of int64, .*, got float32"),
        ((ROWS, None), "labels must be given where indices_tuple is not, got None for both"),
        ((ROWS, LABELS.to("meta")), "labels must be on cpu like embeddings, got meta"),
        ((ROWS, LABELS, None, ROWS), "ref_labels must be given together with ref_emb, got None"),
        ((ROWS, LABELS, None, None, LABELS), "ref_emb must be given together with ref_labels, got None"),
        (
            (ROWS, LABELS, None, ROWS[:, :3], LABELS),
            r"ref_emb must have shape \[M, 4\] like embeddings, got \[6, 3\]",
        ),
        (
            (ROWS, LABELS, None, ROWS.double(), LABELS),
            "ref_emb must have the dtype of embeddings, torch.float32, got",
        ),
        ((ROWS, LABELS, None, ROWS, LABELS[:2]), r"ref_labels must have shape \[6\], got \[2\]"),
        ((ROWS, LABELS, (LABELS, LABELS)), "indices_tuple must hold 3 or 4 index tensors, got tuple"),
        (
            (ROWS, LABELS, (LABELS,) * 3 + (LABELS + 1,)),
            "indices_tuple must hold negative indices from 0 to 5, got 1 to 6",
        ),
        (
            (ROWS, LABELS, (LABELS, LABELS[:2], LABELS)),
            r"positive pairs as two tensors of one length, got \[6\] and \[2\]",
        ),
    ],
)
def test_bad_calls_name_the_argument(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(fastdml.InputError, match=message):
        MultiSimilarityLoss()(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": "max"}, "reduction must be one of mean, sum, none, got 'max'"),
        ({"distance": distances.SNRDistance()}, "distance must be CosineSimilarity.*got SNRDistance"),
        (
            {"distance": distances.CosineSimilarity(p=1)},
            r"got CosineSimilarity\(normalize_embeddings=True, p=1",
        ),
        ({"reducer": "median"}, "reducer must be one of mean, sum, none or a reducer object, got 'median'"),
        ({"reducer": 3}, "reducer must be a reducer of fastdml or pytorch-metric-learning or None, got 3"),
        ({"alpha": -1}, "alpha must be a positive number, got -1"),
    ],
)
def test_bad_settings_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiSimilarityLoss(**arguments)
