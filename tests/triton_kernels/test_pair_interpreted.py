"""The pair kernels on the CPU, by Triton's interpreter, against the reference in float64.

Tolerance: at most twice the error that the reference makes in the kernel's own dtype, plus 1e-6 of the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import fastdml
from fastdml.backends import reference
from fastdml.engines.pair import pair_losses
from fastdml.rules import MultiSimilarity
from fastdml.triton_kernels import configs

FORMS = ("rows", "blocks")
Losses = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def nan_filled_memory() -> Iterator[None]:
    """torch.empty returns NaN, so nothing unwritten passes."""
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills


def use_form(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    if form == "blocks":
        monkeypatch.setattr(configs, "row_owner_tile", lambda *_: None)


class Batch(NamedTuple):
    embeddings: Tensor
    labels: Tensor
    grad: Tensor
    ref_embeddings: Tensor | None = None
    ref_labels: Tensor | None = None


class Result(NamedTuple):
    losses: Tensor
    grad: Tensor
    ref_grad: Tensor | None

    def parts(self) -> dict[str, Tensor]:
        return {name: value.double() for name, value in self._asdict().items() if value is not None}


def make_batch(n: int, width: int, refs: int = 0, classes: int = 6, seed: int = 0) -> Batch:
    """Random rows of lengths far from 1, around class centres, and random upstream gradients."""
    random = torch.Generator().manual_seed(seed)

    def rows(labels: Tensor) -> Tensor:
        points = centres[labels] + torch.randn(len(labels), width, generator=random)
        return points * torch.rand(len(labels), 1, generator=random).add(0.1)

    centres = 0.5 * torch.randn(classes + 1, width, generator=random)
    labels = torch.randint(0, classes, (n,), generator=random)
    # a class that only the candidates have
    ref_labels = torch.randint(0, classes + 1, (refs,), generator=random)
    batch = Batch(rows(labels), labels, torch.randn(n, generator=random))
    return batch._replace(ref_embeddings=rows(ref_labels), ref_labels=ref_labels) if refs else batch


def run(function: Losses, rule: MultiSimilarity, batch: Batch, dtype: torch.dtype) -> Result:
    embeddings = batch.embeddings.detach().to(dtype, copy=True).requires_grad_()
    refs = (
        None
        if batch.ref_embeddings is None
        else batch.ref_embeddings.detach().to(dtype, copy=True).requires_grad_()
    )
    losses = function(rule, embeddings, batch.labels, refs, batch.ref_labels)
    losses.backward(batch.grad.to(losses.dtype))
    assert embeddings.grad is not None
    return Result(losses.detach(), embeddings.grad, None if refs is None else refs.grad)


def run_kernels(rule: MultiSimilarity, batch: Batch, dtype: torch.dtype) -> Result:
    with fastdml.use_backend("triton"):
        return run(pair_losses, rule, batch, dtype)


def check(rule: MultiSimilarity, batch: Batch, dtype: torch.dtype = torch.float32) -> None:
    given = [None if t is None else t.to(dtype).double() for t in (batch.embeddings, batch.ref_embeddings)]
    batch = batch._replace(embeddings=given[0], ref_embeddings=given[1])
    ours = run_kernels(rule, batch, dtype)
    same = run(reference.pair_losses, rule, batch, dtype).parts()
    truth = run(reference.pair_losses, rule, batch, torch.float64).parts()
    assert ours.grad.dtype == dtype
    assert ours.losses.dtype == torch.float32
    for name, value in ours.parts().items():
        scale = max(truth[name].abs().max().item(), batch.grad.abs().max().item())
        error = (value - truth[name]).abs().max().item()
        allowed = 2 * (same[name] - truth[name]).abs().max().item() + 1e-6 * scale
        assert error <= allowed, f"{name}: error {error:.3e}, allowed {allowed:.3e}, scale {scale:.3e}"


@pytest.mark.parametrize("epsilon", [None, 0.1])
@pytest.mark.parametrize("refs", [0, 41])
@pytest.mark.parametrize(
    ("form", "width"),
    [("rows", 1), ("rows", 20), ("rows", 64), ("rows", 96), ("rows", 130), ("blocks", 20), ("blocks", 130),
     ("blocks", 300)],
)  # fmt: skip
def test_widths(
    monkeypatch: pytest.MonkeyPatch, form: str, width: int, refs: int, epsilon: float | None
) -> None:
    use_form(monkeypatch, form)
    check(MultiSimilarity(epsilon=epsilon), make_batch(50, width, refs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("n", "refs"), [(1, 0), (2, 0), (17, 0), (100, 0), (150, 0), (1, 40), (33, 1), (20, 150)]
)
def test_counts(monkeypatch: pytest.MonkeyPatch, form: str, n: int, refs: int) -> None:
    use_form(monkeypatch, form)
    check(MultiSimilarity(epsilon=0.1), make_batch(n, 16, refs, classes=20))


@pytest.mark.parametrize("epsilon", [None, 0.1])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["one class", "all distinct", "class of half", "large and negative"])
def test_labels(monkeypatch: pytest.MonkeyPatch, kind: str, form: str, epsilon: float | None) -> None:
    use_form(monkeypatch, form)
    n = 70
    batch = make_batch(n, 16)
    labels = {
        "one class": torch.full((n,), 7),
        "all distinct": torch.randperm(n, generator=torch.Generator().manual_seed(1)),
        "class of half": torch.arange(n) % 2 * torch.arange(n),
        "large and negative": (batch.labels - 3) * (1 << 60),
    }[kind]
    check(MultiSimilarity(epsilon=epsilon), batch._replace(labels=labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("refs", [0, 40])
@pytest.mark.parametrize("form", FORMS)
def test_dtypes(monkeypatch: pytest.MonkeyPatch, form: str, refs: int, dtype: torch.dtype) -> None:
    use_form(monkeypatch, form)
    check(MultiSimilarity(epsilon=0.1), make_batch(60, 48, refs), dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("exponent", [-12, 17])
def test_float16_takes_any_upstream_gradient(
    monkeypatch: pytest.MonkeyPatch, form: str, exponent: int
) -> None:
    """As float16 weights, the gradients of a mean would underflow, those of a scaled loss overflow."""
    use_form(monkeypatch, form)
    batch, rule = make_batch(40, 32), MultiSimilarity(epsilon=0.1)
    base = run_kernels(rule, batch, torch.float16).grad.double()
    # rows as much longer as the upstream gradient is larger would leave the gradients as they are
    lengths = 2.0 ** (exponent / 2)
    batch = batch._replace(grad=batch.grad * 2.0**exponent, embeddings=batch.embeddings * lengths)
    scaled = run_kernels(rule, batch, torch.float16).grad.double()
    torch.testing.assert_close(scaled / lengths, base, rtol=2e-2, atol=1e-3 * base.abs().max().item())


@pytest.mark.parametrize(
    "rule",
    [
        MultiSimilarity(alpha=2, beta=40, epsilon=0.1, duplicate=1 - 1e-5),
        MultiSimilarity(alpha=2, beta=50, base=1, epsilon=0.1),
        MultiSimilarity(alpha=18, beta=75, base=-0.4, epsilon=0.3),
        MultiSimilarity(alpha=50, beta=2, base=0.5),
    ],
    ids=["official", "paper", "shifted", "steep positives"],
)
@pytest.mark.parametrize("form", FORMS)
def test_constants(monkeypatch: pytest.MonkeyPatch, form: str, rule: MultiSimilarity) -> None:
    use_form(monkeypatch, form)
    batch = make_batch(45, 16)
    embeddings = batch.embeddings.clone()
    embeddings[5:15] = embeddings[15:25]
    labels = batch.labels.clone()
    labels[5:12] = labels[15:22]
    check(rule, batch._replace(embeddings=embeddings, labels=labels))


@pytest.mark.parametrize("form", FORMS)
def test_zero_vectors(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    use_form(monkeypatch, form)
    batch, rule = make_batch(40, 16, refs=30), MultiSimilarity()
    assert batch.ref_embeddings is not None
    batch.embeddings[[3, 7]] = 0
    batch.ref_embeddings[4] = 0
    ours = run_kernels(rule, batch, torch.float32).parts()
    truth = run(reference.pair_losses, rule, batch, torch.float64).parts()
    for name, value in ours.items():
        # rows of length 0 are divided by 1e-12, so every row has its own scale
        scale = truth[name].reshape(len(value), -1).norm(dim=1, keepdim=True)
        error = (value - truth[name]).reshape(len(value), -1).norm(dim=1, keepdim=True)
        assert (error <= 2e-6 * scale + 2e-6).all(), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("refs", [0, 30])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_candidate_that_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, form: str, refs: int, value: float
) -> None:
    use_form(monkeypatch, form)
    batch = make_batch(40, 16, refs)
    rows = batch.embeddings if batch.ref_embeddings is None else batch.ref_embeddings
    rows[11, 3] = value
    ours = run_kernels(MultiSimilarity(epsilon=0.1), batch, torch.float32)
    assert ours.losses.isnan().all()
    assert ours.grad.isnan().any()


def test_anchor_that_is_not_finite_poisons_its_own_loss() -> None:
    batch = make_batch(40, 16, refs=30)
    batch.embeddings[11, 3] = float("nan")
    losses = run_kernels(MultiSimilarity(epsilon=0.1), batch, torch.float32).losses
    assert losses.isnan().nonzero().tolist() == [[11]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("refs", [0, 40])
def test_shared_columns(monkeypatch: pytest.MonkeyPatch, form: str, refs: int) -> None:
    """Several programs share the columns of a row block."""
    use_form(monkeypatch, form)
    monkeypatch.setattr(configs, "column_splits", lambda *_: 3)
    check(MultiSimilarity(epsilon=0.1), make_batch(90, 16, refs))


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_are_bitwise_equal(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    use_form(monkeypatch, form)
    batch, rule = make_batch(70, 24, refs=50), MultiSimilarity(epsilon=0.1)
    first, second = (run_kernels(rule, batch, torch.bfloat16).parts() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_rows_that_are_not_contiguous() -> None:
    batch, rule = make_batch(30, 24), MultiSimilarity(epsilon=0.1)
    wide = torch.randn(24, 60).T[::2]
    wide.copy_(batch.embeddings)
    plain, strided = batch.embeddings.clone().requires_grad_(), wide.requires_grad_()
    assert not strided.is_contiguous()
    with fastdml.use_backend("triton"):
        for x in (plain, strided):
            pair_losses(rule, x, batch.labels).backward(batch.grad.float())
    assert plain.grad is not None
    assert strided.grad is not None
    assert torch.equal(plain.grad, strided.grad)


def test_only_the_gradient_that_is_needed() -> None:
    batch, rule = make_batch(30, 16, refs=20), MultiSimilarity(epsilon=0.1)
    assert batch.ref_embeddings is not None
    both = run_kernels(rule, batch, torch.float32)
    refs = batch.ref_embeddings.clone().requires_grad_()
    with fastdml.use_backend("triton"):
        pair_losses(rule, batch.embeddings, batch.labels, refs, batch.ref_labels).backward(batch.grad)
    assert both.ref_grad is not None
    assert torch.equal(refs.grad, both.ref_grad)


@pytest.mark.parametrize("refs", [0, 20])
def test_operators(refs: int) -> None:
    batch, rule = make_batch(30, 16, refs), MultiSimilarity(epsilon=0.1)
    run_kernels(rule, batch, torch.float32)
    given = (
        batch.embeddings,
        batch.labels,
        batch.ref_embeddings,
        batch.ref_labels,
        rule.name,
        rule.constants(),
    )
    forward, backward = (
        torch.ops.fastdml.pair_forward_triton.default,
        torch.ops.fastdml.pair_backward_triton.default,
    )
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(forward, (*given, True), test_utils=checks)
    _, *saved = forward(*given, True)
    torch.library.opcheck(
        backward, (batch.grad, *saved, rule.name, rule.constants(), True, refs > 0), test_utils=checks
    )


def test_float64_is_refused() -> None:
    batch = make_batch(8, 4)
    with fastdml.use_backend("triton"), pytest.raises(fastdml.errors.BackendError, match="float64"):
        pair_losses(MultiSimilarity(), batch.embeddings.double(), batch.labels)
