"""Cached gradients: those of the whole batch, with what draws numbers and what keeps statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastdml import CachedGradients, losses, miners
from fastdml.cached_gradients import dealt
from fastdml.errors import InputError

ROWS, CHUNK, CHUNKS = 40, 16, 3  # of 14, 13 and 13 rows
LABELS = torch.arange(ROWS) % 10


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(ROWS, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))


def network(*middle: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 12), *middle, nn.ReLU(), nn.Linear(12, 5)).to(dtype)


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def in_chunks(model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Every chunk through the model with its graph kept: what cached gradients must repeat."""
    found = torch.cat([model(inputs[n::CHUNKS]) for n in range(CHUNKS)])
    places = torch.cat([torch.arange(ROWS)[n::CHUNKS] for n in range(CHUNKS)])
    value = loss(found[places.argsort()])
    value.backward()
    return value.detach()


def value_of(embeddings: Tensor) -> Tensor:
    return losses.MultiSimilarityLoss(epsilon=0.1)(embeddings, LABELS)


@pytest.mark.parametrize("chunk", [1, 7, 16, 40, 100])
def test_the_gradients_are_those_of_one_batch(chunk: int) -> None:
    model = network(nn.LayerNorm(12))
    whole = copy.deepcopy(model)
    expected = value_of(whole(images()))
    expected.backward()
    found = CachedGradients(model, chunk).backward(images(), value_of)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-9, atol=1e-13)


def test_gradients_are_added_to_those_that_are_there() -> None:
    model = network()
    cached = CachedGradients(model, CHUNK)
    cached.backward(images(), value_of)
    once = gradients(model)
    cached.backward(images(), value_of)
    torch.testing.assert_close(gradients(model), [2 * gradient for gradient in once], rtol=1e-12, atol=0)


def test_dropout_draws_the_same_numbers_both_times() -> None:
    model = network(nn.Dropout(0.5))
    whole = copy.deepcopy(model)
    torch.manual_seed(7)
    expected = in_chunks(whole, images(), value_of)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    found = CachedGradients(model, CHUNK).backward(images(), value_of)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-10, atol=1e-14)
    assert torch.equal(torch.get_rng_state(), after)  # as after one pass


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_moves_its_statistics_once(momentum: float | None) -> None:
    model = network(nn.BatchNorm1d(12, momentum=momentum))
    whole = copy.deepcopy(model)
    expected = in_chunks(whole, images(), value_of)
    found = CachedGradients(model, CHUNK).backward(images(), value_of)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-9, atol=1e-13)

    norm = model[1]
    with torch.no_grad():
        inner = [model[0](part) for part in (images()[n::CHUNKS] for n in range(CHUNKS))]
    weights = torch.tensor([len(part) for part in inner], dtype=torch.float64) / ROWS
    mean = sum(w * part.mean(0) for w, part in zip(weights, inner, strict=True))
    variance = sum(w * part.var(0) for w, part in zip(weights, inner, strict=True))
    step = 0.1 if momentum else 1.0  # the first batch of a cumulative average
    torch.testing.assert_close(norm.running_mean, step * mean)
    torch.testing.assert_close(norm.running_var, (1 - step) + step * variance)
    assert int(norm.num_batches_tracked) == 1
    assert norm.momentum == momentum


def test_a_frozen_batch_norm_knows_no_chunks() -> None:
    model = network(nn.BatchNorm1d(12))
    model[1].eval()
    model[1].running_mean.normal_()
    whole = copy.deepcopy(model)
    value_of(whole(images())).backward()
    before = model[1].running_mean.clone()
    CachedGradients(model, CHUNK).backward(images(), value_of)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-9, atol=1e-13)
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_of_another_kind_changes_in_the_first_pass_only(in_place: bool) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if in_place:
                self.calls += 1
            else:
                self.calls = self.calls + 1
            return x

    model = network(Counts())
    CachedGradients(model, CHUNK).backward(images(), value_of)
    assert int(model[1].calls) == 3


def test_under_autocast() -> None:
    model = network(nn.LayerNorm(12), dtype=torch.float32)
    whole = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected = in_chunks(whole, images(torch.float32), value_of)
        found = CachedGradients(model, CHUNK).backward(images(torch.float32), value_of)
    assert torch.equal(found, expected)
    for mine, theirs in zip(gradients(model), gradients(whole), strict=True):
        # sums over chunks in float32 of products in bfloat16, in another order
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.01 * float(theirs.abs().max()))


def test_what_the_loss_learns_gets_its_gradient() -> None:
    model = network(dtype=torch.float32)
    torch.manual_seed(5)
    loss = losses.ProxyAnchorLoss(num_classes=10, embedding_size=5)
    whole, twin = copy.deepcopy(model), copy.deepcopy(loss)
    twin(whole(images(torch.float32)), LABELS).backward()
    CachedGradients(model, CHUNK).backward(images(torch.float32), lambda found: loss(found, LABELS))
    torch.testing.assert_close(loss.centers.grad, twin.centers.grad)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-4, atol=1e-6)


def test_a_memory_of_past_batches_sees_each_batch_once() -> None:
    def memory() -> losses.CrossBatchMemory:
        loss, miner = losses.ContrastiveLoss(), miners.PairMarginMiner(0.2, 0.8)
        return losses.CrossBatchMemory(loss, 5, memory_size=100, miner=miner)

    model = network()
    whole, mine, theirs = copy.deepcopy(model), memory(), memory()
    cached = CachedGradients(model, CHUNK)
    for step in range(3):
        batch = images() + step
        value = theirs(whole(batch), LABELS)
        value.backward()
        found = cached.backward(batch, lambda embeddings: mine(embeddings, LABELS))
        torch.testing.assert_close(found, value.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(mine.embedding_memory, theirs.embedding_memory, rtol=1e-12, atol=1e-14)
    assert mine.queue_idx == theirs.queue_idx == 20


def test_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"embedding": self.inner(features["values"]) * features["mask"][:, None]}

    model = Named()
    whole = copy.deepcopy(model)
    features = {"values": images(), "mask": torch.linspace(1, 2, ROWS).double()}
    value_of(whole(features)["embedding"]).backward()
    cached = CachedGradients(model, CHUNK, forward=lambda net, part: net(part)["embedding"])
    cached.backward(features, value_of)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-9, atol=1e-13)


def test_pieces_hold_at_most_so_many_rows() -> None:
    pieces, places = dealt((torch.arange(5), {"a": torch.arange(10).view(5, 2)}), 2)
    assert [piece[0].tolist() for piece in pieces] == [[0, 3], [1, 4], [2]]
    assert [piece[1]["a"].tolist() for piece in pieces] == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5]]]
    assert places.tolist() == [0, 3, 1, 4, 2]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("text", "inputs must be tensors with a row"),
        ({}, "inputs must be tensors with a row"),
        (torch.zeros(0, 6), "inputs must have at least one row"),
        ((torch.zeros(3, 6), torch.zeros(4)), r"same number of rows, got \[3, 4\]"),
    ],
)
def test_inputs_that_are_no_batch(inputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CachedGradients(network(), 4).backward(inputs, value_of)


def test_a_loss_that_is_no_scalar() -> None:
    with pytest.raises(InputError, match=r"loss must return a scalar, got \[40\]"):
        CachedGradients(network(), 4).backward(images(), lambda embeddings: embeddings.sum(1))


def test_a_chunk_of_nothing() -> None:
    with pytest.raises(InputError, match="chunk must be at least 1, got 0"):
        CachedGradients(network(), 0)
