"""Cross-batch memory, self-supervision and sums of losses, held against pytorch-metric-learning 2.9."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from torch import Tensor

import fastdml
from fastdml import losses, miners

D = 12


def batch(count: int, seed: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, D, dtype=torch.float64, generator=generator) + 0.4
    return embeddings.requires_grad_(), torch.randint(classes, (count,), generator=generator)


def value_and_gradient(module: Any, *arguments: Any, **more: Any) -> tuple[Tensor, Tensor]:
    embeddings = arguments[0]
    value = module(*arguments, **more)
    return value.detach(), torch.autograd.grad(value, embeddings)[0]


MEMORY_LOSSES = {
    "contrastive": ("ContrastiveLoss", {"pos_margin": 0.1}),
    "triplet": ("TripletMarginLoss", {"margin": 0.2}),
    "generalised lifted": ("GeneralizedLiftedStructureLoss", {}),
    "nt-xent": ("NTXentLoss", {}),
    "supcon": ("SupConLoss", {}),
    "circle": ("CircleLoss", {}),
    "margin": ("MarginLoss", {"beta": 0.9}),
    "multi-similarity": ("MultiSimilarityLoss", {}),
}


@pytest.mark.parametrize("name", MEMORY_LOSSES)
def test_a_memory_gives_what_theirs_gives_over_many_batches(name: str, backend: str) -> None:
    kind, settings = MEMORY_LOSSES[name]
    ours = losses.CrossBatchMemory(getattr(losses, kind)(**settings), D, memory_size=50)
    theirs = pml_losses.CrossBatchMemory(getattr(pml_losses, kind)(**settings), D, memory_size=50)
    # 16 does not divide 50: the fourth batch is larger than what is left of the ring
    for step, count in enumerate((16, 16, 16, 16, 50, 7, 16)):
        found = value_and_gradient(ours, *batch(count, step))
        expected = value_and_gradient(theirs, *batch(count, step))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
        assert torch.equal(ours.embedding_memory, theirs.embedding_memory)
        assert torch.equal(ours.label_memory, theirs.label_memory)


@pytest.mark.parametrize(
    ("kind", "miner", "settings"),
    [
        ("MultiSimilarityLoss", "MultiSimilarityMiner", {"epsilon": 0.2}),
        ("ContrastiveLoss", "PairMarginMiner", {"pos_margin": 0.3, "neg_margin": 1.0}),
        ("TripletMarginLoss", "TripletMarginMiner", {"type_of_triplets": "semihard"}),
        ("TripletMarginLoss", "BatchHardMiner", {}),
        ("ContrastiveLoss", "TripletMarginMiner", {}),
    ],
)
def test_a_memory_with_a_miner(kind: str, miner: str, settings: dict[str, Any], backend: str) -> None:
    loss = {"pos_margin": 0.1} if kind == "ContrastiveLoss" else {}
    ours = losses.CrossBatchMemory(getattr(losses, kind)(**loss), D, 50, getattr(miners, miner)(**settings))
    theirs = pml_losses.CrossBatchMemory(
        getattr(pml_losses, kind)(**loss), D, 50, getattr(pml_miners, miner)(**settings)
    )
    for step in range(6):
        # two classes, so that no anchor has itself as its only positive, which would count in their mining
        found = value_and_gradient(ours, *batch(16, step, classes=2))
        expected = value_and_gradient(theirs, *batch(16, step, classes=2))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_a_memory_takes_a_mask_of_what_enters() -> None:
    ours = losses.CrossBatchMemory(losses.NTXentLoss(), D, 30)
    theirs = pml_losses.CrossBatchMemory(pml_losses.NTXentLoss(), D, 30)
    for step in range(4):
        mask = torch.arange(20) % 2 == step % 2
        found = value_and_gradient(ours, *batch(20, step), enqueue_mask=mask)
        expected = value_and_gradient(theirs, *batch(20, step), enqueue_mask=mask)
        torch.testing.assert_close(found, expected)


def test_a_memory_adds_listed_pairs() -> None:
    ours = losses.CrossBatchMemory(losses.ContrastiveLoss(0.1), D, 30)
    theirs = pml_losses.CrossBatchMemory(pml_losses.ContrastiveLoss(0.1), D, 30)
    for step in range(3):
        embeddings, labels = batch(10, step)
        pairs = pml_miners.BatchHardMiner()(embeddings, labels)
        found = value_and_gradient(ours, embeddings, labels, pairs)
        torch.testing.assert_close(found, value_and_gradient(theirs, embeddings, labels, pairs))


def test_a_memory_is_saved_whole() -> None:
    first = losses.CrossBatchMemory(losses.SupConLoss(), D, 30)
    for step in range(4):
        first(*batch(8, step))
    stored = io.BytesIO()
    torch.save(first.state_dict(), stored)
    stored.seek(0)
    second = losses.CrossBatchMemory(losses.SupConLoss(), D, 30).double()
    second.load_state_dict(torch.load(stored))
    assert (second.queue_idx, second.has_been_filled) == (2, True)
    assert torch.equal(first(*batch(8, 9)), second(*batch(8, 9)))
    second.reset_queue()
    assert (second.queue_idx, second.has_been_filled) == (0, False)
    assert second.embedding_memory.abs().sum() == 0


def test_a_memory_moves_on_between_forward_and_backward() -> None:
    memory = losses.CrossBatchMemory(losses.MultiSimilarityLoss(), D, 30)
    memory(*batch(30, 0))
    if "cpu" not in fastdml.available_backends():
        pytest.skip("the plain PyTorch backends hold the memory itself")
    embeddings, labels = batch(10, 1)
    value = memory(embeddings, labels)
    (expected,) = torch.autograd.grad(value, embeddings, retain_graph=True)
    memory(*batch(30, 2))
    assert torch.equal(torch.autograd.grad(value, embeddings)[0], expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", [*MEMORY_LOSSES, "lifted"])
def test_self_supervision(name: str, symmetric: bool, backend: str) -> None:
    kind, settings = {**MEMORY_LOSSES, "lifted": ("LiftedStructureLoss", {})}[name]
    if kind == "MarginLoss" or (kind == "LiftedStructureLoss" and not symmetric):
        pytest.skip("not there, or by positions of other rows")
    ours = losses.SelfSupervisedLoss(getattr(losses, kind)(**settings), symmetric)
    theirs = pml_losses.SelfSupervisedLoss(getattr(pml_losses, kind)(**settings), symmetric)
    embeddings, _ = batch(20, 0)
    others = (embeddings + 0.3 * batch(20, 1)[0]).detach()
    found, expected = (value_and_gradient(module, embeddings, others) for module in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_sums_of_losses_with_miners_and_weights() -> None:
    embeddings, labels = batch(40, 0)

    def build(losses: Any, miners: Any, named: bool) -> Any:
        parts = [losses.ContrastiveLoss(0.1), losses.SupConLoss()]
        miner = miners.MultiSimilarityMiner()
        if named:
            by_name = dict(zip("ab", parts, strict=True))
            return losses.MultipleLosses(by_name, {"a": miner}, {"a": 0.5, "b": 2})
        return losses.MultipleLosses(parts, [None, miner], [0.5, 2])

    for named in (True, False):
        found = value_and_gradient(build(losses, miners, named), embeddings, labels)
        expected = value_and_gradient(build(pml_losses, pml_miners, named), embeddings, labels)
        torch.testing.assert_close(found, expected)


MEMORY = losses.CrossBatchMemory(losses.SupConLoss(), D, 30)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.CrossBatchMemory(torch.nn.Linear(2, 2), 4), "loss must be a pair loss .* got Linear"),
        (
            lambda: losses.CrossBatchMemory(losses.NPairsLoss(), 4),
            "loss must be a pair loss .* got NPairsLoss",
        ),
        (lambda: losses.CrossBatchMemory(losses.SupConLoss(), 4, 0), "memory_size must be at least 1, got 0"),
        (lambda: MEMORY(*batch(31, 0)), "embeddings must be at most memory_size = 30 rows, got 31"),
        (
            lambda: MEMORY(torch.zeros(4, 3), torch.zeros(4)),
            r"embeddings must have shape \[N, 12\], got \[4, 3\]",
        ),
        (
            lambda: MEMORY(*batch(4, 0), None, torch.ones(4)),
            r"enqueue_mask must be bool \[4\], got torch.float32",
        ),
        (
            lambda: losses.SelfSupervisedLoss(losses.SupConLoss())(*[torch.zeros(3, 2), torch.zeros(4, 2)]),
            "ref_emb",
        ),
        (
            lambda: losses.MultipleLosses({"a": losses.SupConLoss()}, None, {"b": 1}),
            "weights must name every loss",
        ),
        (lambda: losses.MultipleLosses([losses.SupConLoss()], [None, None]), "miners must"),
        (lambda: losses.MultipleLosses([losses.SupConLoss()], None, {"0": 1.0}), "weights must be a list"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(fastdml.InputError, match=message):
        call()
