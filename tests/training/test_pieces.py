"""One update, as it is made of pieces of a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastdml import losses
from fastdml.training import TrainConfig
from fastdml.training.batches import BatchChunks
from fastdml.training.large_step import LargeStep, Piece, Update
from fastdml.training.network import EmbeddingNetwork
from fastdml.training.processes import Processes
from fastdml.training.views import Views

CPU = torch.device("cpu")
LABELS = torch.arange(24) // 4
IMAGES = torch.randint(256, (24, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def pieces(count: int) -> list[Piece]:
    rows = [torch.arange(24)[number::count] for number in range(count)]
    return [Piece(number, part, IMAGES[part], count) for number, part in enumerate(rows)]


def network() -> nn.Module:
    torch.manual_seed(2)
    return EmbeddingNetwork(8, 4, image_size=16).train()


def make_step(model: nn.Module, precision: str = "fp32", views: Views | None = None) -> LargeStep:
    loss = losses.MultiSimilarityLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    return LargeStep(
        model, loss, optimiser, Processes(CPU), views or Views(), 3, precision, print, lambda *counts: None
    )


def value(embeddings: Tensor, rows: Tensor) -> Tensor:
    return losses.MultiSimilarityLoss()(embeddings, LABELS[rows])


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def update_of(model: nn.Module, parts: list[Piece], precision: str = "fp32") -> tuple[Update, Tensor]:
    """What a step did, and by how much it moved the parameters."""
    before, step = flat(model), make_step(model, precision)
    if precision == "fp16":
        step.scaler = torch.amp.GradScaler("cpu", init_scale=256)  # that does not overflow at first
    return step(1, parts, value), flat(model) - before


def test_a_step_is_that_of_the_optimiser() -> None:
    model, twin = network(), network()
    made, moved = update_of(model, pieces(1))
    expected = value(twin(IMAGES / 255), torch.arange(24))
    expected.backward()
    gradient = torch.cat([one.grad.flatten() for one in twin.parameters()])
    torch.testing.assert_close(moved, -0.1 * gradient, rtol=1e-4, atol=1e-7)
    assert made.loss == pytest.approx(float(expected), rel=1e-6)
    assert made.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("count", [1, 3])
def test_half_precision_moves_the_same_way(precision: str, count: int) -> None:
    exact, wanted = update_of(network(), pieces(count))
    made, moved = update_of(network(), pieces(count), precision)
    assert float(torch.cosine_similarity(moved, wanted, dim=0)) > (0.95 if precision == "bf16" else 0.99)
    assert made.gradient_norm == pytest.approx(exact.gradient_norm, rel=0.1 if precision == "bf16" else 0.02)


def test_a_scale_that_overflows_costs_a_step_and_not_the_run() -> None:
    model = network()
    step, before = make_step(model, "fp16"), flat(model)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    step(1, pieces(1), value)
    assert torch.equal(flat(model), before)
    assert step.scaler.get_scale() == 2.0**23


def test_pieces_without_an_image_change_nothing() -> None:
    none = Piece(2, torch.zeros(0, dtype=torch.int64), IMAGES[:0], 3)
    two = [Piece(piece.number, piece.rows, piece.images, 3) for piece in pieces(2)]
    _, wanted = update_of(network(), two)
    _, moved = update_of(network(), [two[0], none, two[1]])
    assert torch.equal(moved, wanted)


def test_what_is_drawn_depends_on_the_number_of_a_piece_alone() -> None:
    seen: list[Tensor] = []

    def perturb(images: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(torch.rand(3, generator=generator))
        return images

    step = make_step(network(), views=Views(perturb))
    first, second = pieces(2)
    step(1, [first, second], value)
    step(1, [second], value)
    step(2, [second], value)
    both, again, alone, later = seen[:2], seen[2:4], seen[4], seen[5]
    assert torch.equal(torch.stack(both), torch.stack(again))  # two passes
    assert not torch.equal(*both)
    assert torch.equal(alone, both[1])
    assert not torch.equal(later, alone)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_halves_are_what_twice_as_many_pieces_would_be(count: int) -> None:
    halves = sorted(
        (half for piece in pieces(count) for half in piece.halves()), key=lambda half: half.number
    )
    for half, piece in zip(halves, pieces(2 * count), strict=True):
        assert (half.number, half.of) == (piece.number, piece.of)
        assert half.rows.tolist() == piece.rows.tolist()
        assert torch.equal(half.images, piece.images)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_chunks_mix_classes_and_hold_every_row_once(processes: int) -> None:
    config = TrainConfig(batch=48, samples_per_class=8, chunk=16, steps=2)
    found: dict[int, list[int]] = {}
    for rank in range(processes):
        chunks = BatchChunks(
            lambda step: torch.arange(48) + 100 * step, config, Processes(CPU, rank, processes), 0
        )
        for number, rows in zip(list(chunks.numbers) * 2, chunks.rows(), strict=True):
            found.setdefault(number, []).extend(rows.tolist())
    assert sorted(found) == [0, 1, 2]
    assert sorted(row for rows in found.values() for row in rows) == [*range(48), *range(100, 148)]
    for rows in found.values():
        assert {row // 8 for row in rows[:16]} == set(range(6))  # of every class
