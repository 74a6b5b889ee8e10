"""The C++ operators of the pair engine against the dense reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdml
from fastdml.backends import reference
from fastdml.engines import pair_ops
from fastdml.engines.pair import pair_losses
from fastdml.rules import MultiSimilarity
from pair_batches import Batch, assert_as_accurate, make_batch

RULES = {
    "unmined": MultiSimilarity(),
    "mined": MultiSimilarity(epsilon=0.1),
    "tightly mined": MultiSimilarity(epsilon=-0.2),
    "official": MultiSimilarity(beta=40, epsilon=0.1, duplicate=1 - 1e-5),
    "shifted exponents": MultiSimilarity(beta=130, alpha=60, base=0, epsilon=0.1),
}

pytestmark = [
    pytest.mark.skipif("cpu" not in fastdml.available_backends(), reason="no native extension here"),
    pytest.mark.usefixtures("poisoned_memory"),
]


def losses_and_gradients(rule: MultiSimilarity, batch: Batch, upstream: Tensor, backend: str) -> list[Tensor]:
    """The losses and the gradients of their sum weighted by `upstream`."""
    leaves = [batch.embeddings.detach().clone().requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.detach().clone().requires_grad_())
    with fastdml.use_backend(backend):
        losses = pair_losses(rule, leaves[0], batch.labels, *leaves[1:], ref_labels=batch.ref_labels)
        gradients = torch.autograd.grad((losses * upstream.to(losses.dtype)).sum(), leaves)
    return [losses.detach(), *gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_equals_the_reference(rule: MultiSimilarity, batch: Batch, dtype: torch.dtype) -> None:
    batch = batch.to(dtype)
    upstream = torch.rand(len(batch.labels), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = losses_and_gradients(rule, batch, upstream, "cpu")
    same_dtype = losses_and_gradients(rule, batch, upstream, "reference")
    truth = losses_and_gradients(rule, batch.to(torch.float64), upstream, "reference")
    for value, plain, exact, what in zip(
        found, same_dtype, truth, ("losses", "gradient", "gradient of the candidates"), strict=False
    ):
        assert_as_accurate(value, plain, exact, what)


@pytest.mark.parametrize("name", ["several blocks", "candidates", "more anchors than candidates"])
def test_recomputed_similarities_give_what_kept_ones_give(name: str) -> None:
    batch, rule = make_batch(name).to(torch.float32), RULES["mined"]
    found = []
    for keep in (True, False):
        forward = torch.ops.fastdml.pair_forward_cpu.default
        losses, *saved = forward(*batch, rule.name, rule.constants(), keep)
        assert (saved[-1].numel() > 0) == keep
        backward = torch.ops.fastdml.pair_backward_cpu.default
        gradients = backward(torch.ones_like(losses), *saved, rule.name, rule.constants(), True, True)
        found.append([losses, *gradients])
    for kept, recomputed in zip(*found, strict=True):
        assert torch.equal(kept, recomputed)


def test_two_runs_are_bitwise_equal() -> None:
    batch = make_batch("several blocks").to(torch.float32)
    upstream = torch.rand(len(batch.labels))
    first, second = (losses_and_gradients(RULES["mined"], batch, upstream, "cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_number_of_threads_changes_rounding_at_most() -> None:
    batch, threads = make_batch("several blocks").to(torch.float64), torch.get_num_threads()
    upstream = torch.rand(len(batch.labels))
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(losses_and_gradients(RULES["mined"], batch, upstream, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nan_in_nan_out(rule: MultiSimilarity) -> None:
    for bad in (torch.nan, torch.inf):
        batch = make_batch("random").to(torch.float32)
        batch.embeddings[5, 3] = bad
        losses, gradient = losses_and_gradients(rule, batch, torch.ones(100), "cpu")
        assert losses.isnan().all()
        assert gradient.isnan().all()
        plain, _ = losses_and_gradients(rule, batch, torch.ones(100), "reference")
        assert plain.isnan().all()


def test_a_nan_anchor_spoils_its_own_row_only() -> None:
    batch = make_batch("candidates").to(torch.float32)
    batch.embeddings[5, 3] = torch.nan
    for backend in ("cpu", "reference"):
        losses = losses_and_gradients(RULES["mined"], batch, torch.ones(60), backend)[0]
        assert losses.isnan().nonzero().tolist() == [[5]]


def test_strided_embeddings_and_labels() -> None:
    torch.manual_seed(0)
    wide = torch.randn(40, 2 * 60)
    strided = Batch(wide.T[::2], torch.randint(6, (120,))[::2])
    assert not strided.embeddings.is_contiguous()
    assert not strided.labels.is_contiguous()
    packed = Batch(strided.embeddings.contiguous(), strided.labels.contiguous())
    upstream = torch.rand(60)
    for a, b in zip(
        losses_and_gradients(RULES["mined"], strided, upstream, "cpu"),
        losses_and_gradients(RULES["mined"], packed, upstream, "cpu"),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["random", "candidates", "one sample"])
def test_operators_keep_torch_s_contract(name: str) -> None:
    batch, rule = make_batch(name).to(torch.float32), RULES["mined"]
    forward = torch.ops.fastdml.pair_forward_cpu.default
    arguments = (*batch, rule.name, rule.constants(), True)
    torch.library.opcheck(forward, arguments)
    losses, *saved = forward(*arguments)
    backward = torch.ops.fastdml.pair_backward_cpu.default
    torch.library.opcheck(
        backward, (torch.ones_like(losses), *saved, rule.name, rule.constants(), True, True)
    )


def test_gradients_that_nobody_needs_are_not_made() -> None:
    batch, rule = make_batch("candidates").to(torch.float32), RULES["mined"]
    embeddings = batch.embeddings.requires_grad_()
    with fastdml.use_backend("cpu"):
        losses = pair_losses(rule, embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels)
    losses.sum().backward()
    assert batch.ref_embeddings is not None
    assert batch.ref_embeddings.grad is None
    upstream = torch.ones(60)
    expected = losses_and_gradients(rule, make_batch("candidates").to(torch.float32), upstream, "cpu")[1]
    torch.testing.assert_close(embeddings.grad, expected, rtol=0, atol=0)


def test_saved_memory_is_linear_in_the_batch() -> None:
    """Beyond the budget of kept similarities, the forward saves the unit rows and a few numbers a row."""
    width, saved = 32, {}
    for rows in (8192, 16384):
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        embeddings = torch.randn(rows, width, requires_grad=True)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            fastdml.use_backend("cpu"),
        ):
            pair_losses(RULES["mined"], embeddings, torch.arange(rows) // 8)
        saved[rows] = total
    row_bytes = (
        2 * 4 * width + 4 + 8 + 2 * 4 + 4 * 4
    )  # embeddings and unit rows, norm, order, span, row scalars
    assert saved == {rows: rows * row_bytes for rows in saved}


def test_python_and_cpp_agree_on_what_is_kept() -> None:
    rule = RULES["unmined"]
    for anchors, candidates in (
        (1, 0),
        (255, 0),
        (257, 0),
        (3000, 0),
        (4096, 0),
        (4400, 0),
        (300, 1000),
        (9000, 2000),
    ):
        embeddings = torch.randn(anchors, 2)
        labels = torch.arange(anchors)
        ref = (torch.randn(candidates, 2), torch.arange(candidates)) if candidates else (None, None)
        tiles = torch.ops.fastdml.pair_forward_cpu(
            embeddings, labels, *ref, rule.name, rule.constants(), True
        )[-1]
        assert tiles.numel() == pair_ops.kept_elements(anchors, candidates or anchors, not candidates)


def test_reference_runs_where_exponents_leave_float32() -> None:
    batch, rule = make_batch("random").to(torch.float32), MultiSimilarity(beta=400, base=0)
    losses = pair_losses(rule, batch.embeddings, batch.labels)
    assert torch.equal(losses, reference.pair_losses(rule, batch.embeddings, batch.labels))
    with fastdml.use_backend("cpu"), pytest.raises(fastdml.BackendError, match="float32"):
        pair_losses(rule, batch.embeddings, batch.labels)
