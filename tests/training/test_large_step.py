"""One update by hand: what comes to nothing changes nothing, and half precision overflows nothing."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fastdml import losses
from fastdml.errors import InputError
from fastdml.training.large_step import LargeStep, NonFiniteBatchError, Piece
from fastdml.training.processes import Processes
from fastdml.training.run import read_lines
from fastdml.training.views import Views

ROWS = 16
LABELS = torch.arange(ROWS) // 4


def pieces(chunk: int = ROWS) -> list[Piece]:
    features = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1))
    count = -(-ROWS // chunk)
    parts = [torch.arange(ROWS)[number::count] for number in range(count)]
    return [Piece(number, rows, features[rows], count) for number, rows in enumerate(parts)]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5))


def step_of(model: nn.Module, loss: nn.Module, notes: list[str] | None = None) -> LargeStep:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    note = ([] if notes is None else notes).append
    return LargeStep(
        model, loss, optimiser, Processes(torch.device("cpu")), Views(), 0, "fp32", note, lambda *_: None
    )


@pytest.mark.parametrize("chunk", [ROWS, 8])
def test_a_loss_that_is_not_finite_changes_nothing(chunk: int) -> None:
    model = network()
    loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), 5, memory_size=32)
    make = step_of(model, loss)
    make(1, pieces(chunk), lambda embeddings, rows: loss(embeddings, LABELS[rows]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    place = loss.get_extra_state()
    with pytest.raises(NonFiniteBatchError):
        make(2, pieces(chunk), lambda embeddings, rows: loss(embeddings, LABELS[rows]) * torch.inf)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert loss.get_extra_state() == place


@pytest.mark.parametrize("chunk", [ROWS, 8])
@pytest.mark.parametrize("backward", [False, True])
def test_what_filled_the_memory_is_let_go_before_the_step_is_tried_again(chunk: int, backward: bool) -> None:
    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    class Fills(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inner):
            return inner.clone()

        @staticmethod
        def backward(ctx, grad):
            raise torch.OutOfMemoryError("in the backward pass")

    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, features: Tensor) -> Tensor:
            alive.append(sum(one() is not None for one in held))
            inner = self.layers(features)
            if len(features) <= chunk // 2:
                return inner
            large = inner.exp()  # kept by the graph
            held.append(weakref.ref(large))
            if not backward:
                raise torch.OutOfMemoryError("in the forward pass")
            return Fills.apply(large)

    gc.disable()  # a cycle would hold it until some later time
    try:
        model, notes = Greedy(), []
        loss = losses.ContrastiveLoss()
        make = step_of(model, loss, notes)
        make(1, pieces(chunk), lambda embeddings, rows: loss(embeddings, LABELS[rows]))
    finally:
        gc.enable()
    assert len(notes) == 1
    assert held
    assert alive[-1] == 0


def test_a_first_batch_of_no_image_is_an_error() -> None:
    nothing = [Piece(0, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 6), 1)]
    with pytest.raises(InputError, match="images that can be read, got none in the first batch"):
        step_of(network(), losses.ContrastiveLoss())(1, nothing, lambda embeddings, rows: embeddings.sum())


@pytest.mark.parametrize("loss", ["multi-similarity", "supcon", "lifted", "margin", "proxy-anchor"])
@pytest.mark.parametrize("chunk", [None, 8])
def test_float16_learns_as_float32_does(run, loss, chunk):
    """Gradients that are scaled for float16 overflow nothing but a few first steps."""
    changes = {"loss": loss, "chunk": chunk, "steps": 12, "evaluations": 0, "learning_rate": 1e-6}
    quiet = {"write_report": lambda result, directory: None}
    _, half = run(out="half", precision="fp16", **changes, **quiet)
    _, full = run(out="full", precision="fp32", **changes, **quiet)
    found, wanted = (read_lines(path / "log.jsonl") for path in (half, full))
    assert found[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=5e-3)
    finite = [line for line in found if line["gradient_norm"] is not None]
    assert len(finite) >= 3
    assert finite[0]["gradient_norm"] == pytest.approx(
        wanted[finite[0]["step"] - 1]["gradient_norm"], rel=0.1
    )


def test_what_a_loss_in_a_memory_learnt_is_saved(run):
    _, path = run(loss="margin", memory=32, write_report=lambda result, directory: None)
    found = load_file(path / "loss.safetensors")
    assert list(found) == ["beta"]
