"""The threshold statistics on Triton, run by the interpreter, against the dense form in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdml
from fastdml.engines.thresholds import threshold_sums
from fastdml.engines.triplets import triplet_losses
from fastdml.rules import Closeness
from fastdml.triton_kernels import configs, thresholds
from pair_batches import Batch, assert_as_accurate, make_batch

CLOSENESS = {
    "cosine": Closeness(),
    "euclidean": Closeness("euclidean"),
    "squared": Closeness("squared"),
    "dot product": Closeness("inner", normalised=False),
    "euclidean of any length": Closeness("euclidean", normalised=False),
}
NAMES = ("random", "one sample", "some without positives", "one candidate")

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of anchors, the last of them ragged."""
    monkeypatch.setattr(thresholds, "BLOCK_ELEMENTS", 2200)


def sums_and_gradients(
    batch: Batch, closeness: Closeness, backend: str, own: Tensor | None = None
) -> list[Tensor]:
    """Counts and sums at up to eleven thresholds an anchor, and the gradients of a weighted sum."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 12, (len(batch.labels),), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    spread = 1.0 if closeness.normalised else 3.0
    asked = torch.randn(int(offsets[-1]), generator=generator) * spread - float(closeness.kind != "inner")
    asked[::7] = math.inf
    upstream = torch.rand(len(asked), generator=generator, dtype=torch.float64)
    leaves = [batch.embeddings.clone().requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.clone().requires_grad_())
    with fastdml.use_backend(backend):
        counts, sums = threshold_sums(
            closeness, leaves[0], batch.labels, *(leaves[1:] or [None]), batch.ref_labels, own, asked, offsets
        )
        gradients = torch.autograd.grad((sums * upstream).sum(), leaves)
    return [counts, sums.detach(), *gradients]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "euclidean") for name in NAMES),
        *(("candidates", kind) for kind in CLOSENESS),
        ("random", "squared"),
    ],
)
def test_equals_the_dense_form(name: str, kind: str) -> None:
    closeness = CLOSENESS[kind]
    batch = make_batch(name).to(torch.float32)
    own = None
    if batch.ref_labels is not None:
        own = torch.arange(len(batch.labels)) % (len(batch.ref_labels) + 1) - 1
    found = sums_and_gradients(batch, closeness, "triton", own)
    plain = sums_and_gradients(batch, closeness, "reference", own)
    truth = sums_and_gradients(batch.to(torch.float64), closeness, "reference", own)
    assert torch.equal(found[0], truth[0])
    for at, (value, same_dtype, exact) in enumerate(zip(found[1:], plain[1:], truth[1:], strict=True)):
        assert_as_accurate(value, same_dtype, exact, f"result {at}")


@pytest.mark.parametrize("name", ["random", "candidates", "one candidate"])
def test_programs_share_the_columns_of_an_anchor(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As on a device that few anchors would not fill."""
    monkeypatch.setattr(thresholds, "COLUMNS", 16)
    monkeypatch.setattr(thresholds, "LEAST_TILES", 1)
    monkeypatch.setattr(configs, "processors", lambda tensor: 132)
    test_equals_the_dense_form(name, "euclidean")


@pytest.mark.parametrize("closeness", list(CLOSENESS.values())[:3], ids=list(CLOSENESS)[:3])
def test_triplets_run_on_them(closeness: Closeness) -> None:
    batch = make_batch("random").to(torch.float32)
    embeddings = batch.embeddings.requires_grad_()
    losses = {}
    for backend in ("triton", "cpu", "reference"):
        if backend in fastdml.available_backends():
            with fastdml.use_backend(backend):
                losses[backend] = triplet_losses(embeddings, batch.labels, closeness=closeness, low=0.0)
    assert len(losses) >= 2
    for found in losses.values():
        torch.testing.assert_close(found.total, losses["reference"].total, rtol=1e-5, atol=1e-5)
        assert (found.count - losses["reference"].count).abs().max() <= 1


def test_twice_the_same_bits() -> None:
    batch = make_batch("candidates").to(torch.float32)
    first, second = (sums_and_gradients(batch, Closeness("euclidean"), "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
