"""The CUDA operators of the pair engine against the dense reference in float64.

Every test that does not need a device runs twice: on the GPU, where there is one, and with the same kernels
emulated on the host.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pair_cases import CASES, EUCLIDEAN, MINED, UNNORMALISED, Case, losses_and_gradients
from torch import Tensor

from fastdml.backends import blocked  # noqa: F401  defines its operators
from fastdml.rules import EVERYTHING, Selection
from pair_batches import BATCHES, Batch, assert_as_accurate, make_batch

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FAMILIES = ("multi-similarity, mined", "margin", "binomial deviance", "nt-xent, mined", "circle")
"""A case of each family of terms."""
OFTEN = ("random", "candidates")
SLOW = ("several blocks", "half in one class", "more anchors than candidates")
"""Batches of hundreds of rows, which the emulation takes seconds for."""

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def place(batch: Batch, device: str) -> Batch:
    return Batch(*(None if tensor is None else tensor.to(device) for tensor in batch))


def in_plain_torch(case: Case, batch: Batch, upstream: Tensor, own: Tensor | None) -> list[Tensor]:
    """What the reference computes in the dtype of the batch; where exponents leave fp16, what blocks do."""
    if batch.embeddings.dtype == torch.float16:
        return losses_and_gradients(case, batch, upstream, "blocked", own)
    return losses_and_gradients(case, batch, upstream, "reference", own)


def assert_equals_the_reference(
    case: Case, batch: Batch, dtype: torch.dtype, own: Tensor | None = None
) -> None:
    generator = torch.Generator().manual_seed(1)
    upstream = torch.rand(len(batch.labels), dtype=torch.float64, generator=generator)
    upstream, batch = upstream.to(batch.embeddings.device), batch.to(dtype)
    found = losses_and_gradients(case, batch, upstream, "cuda", own)
    same_dtype = in_plain_torch(case, batch, upstream, own)
    truth = losses_and_gradients(case, batch.to(torch.float64), upstream, "reference", own)
    for at, (value, plain, exact) in enumerate(zip(found, same_dtype, truth, strict=True)):
        assert_as_accurate(value, plain, exact, f"result {at}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OFTEN)
@pytest.mark.parametrize("case", [*CASES, *UNNORMALISED])
def test_equals_the_reference(case: str, name: str, dtype: torch.dtype, device: str) -> None:
    assert_equals_the_reference((CASES | UNNORMALISED)[case], place(make_batch(name), device), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [name for name in BATCHES if name not in OFTEN])
@pytest.mark.parametrize("case", FAMILIES)
def test_every_batch(case: str, name: str, dtype: torch.dtype, device: str) -> None:
    if device == "cpu" and name in SLOW and (case, dtype) != (FAMILIES[0], torch.float64):
        pytest.skip("slow when emulated")
    if (name, dtype) == ("one column", torch.float64) and case in ("circle", "nt-xent, mined"):
        pytest.skip("a gradient of zero is left over from weights in the hundreds, each rounded")
    assert_equals_the_reference(CASES[case], place(make_batch(name), device), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", FAMILIES)
def test_an_anchor_that_is_a_candidate_is_no_pair_of_it(case: str, dtype: torch.dtype, device: str) -> None:
    batch = make_batch("candidates")
    own = torch.arange(60) * 7 % 111 - 1  # of either label, in any order; the first: none
    assert_equals_the_reference(CASES[case], place(batch, device), dtype, own.to(device))


@pytest.mark.parametrize("case", FAMILIES)
def test_candidates_that_are_the_anchors_give_self_pairs(case: str, device: str) -> None:
    batch, upstream = place(make_batch("random"), device), torch.rand(100, dtype=torch.float64, device=device)
    shuffled = torch.randperm(100, device=device)
    apart = Batch(batch.embeddings, batch.labels, batch.embeddings[shuffled], batch.labels[shuffled])
    own = shuffled.argsort()
    *together, gradient = losses_and_gradients(CASES[case], batch, upstream, "cuda")
    *found, of_anchors, of_candidates = losses_and_gradients(CASES[case], apart, upstream, "cuda", own)
    for a, b in zip(found, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(of_anchors + of_candidates[own], gradient, rtol=1e-11, atol=1e-11)


SELECTIONS = {
    "everything": EVERYTHING,
    "relative": MINED,
    "relative, without bounds": Selection(True, math.inf, math.inf),
    "relative, no copies": Selection(True, 0.1, 0.1, -0.3),
    "absolute": Selection(False, -1.1, -0.6, -0.2),
}


def operator_arguments(
    case: Case,
    batch: Batch,
    selection: Selection = MINED,
    own: Tensor | None = None,
    row: Tensor | None = None,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The tensors and the rule, as the operators take them."""
    terms, closeness = case.rule.terms(case.closeness), case.closeness.code
    rule = terms.name, terms.constants(), selection.constants(), closeness
    return (*batch, own, row), rule


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize("name", [*OFTEN, "some without positives"])
def test_statistics_equal_those_of_plain_blocks(selection: Selection, name: str, device: str) -> None:
    """Also those that no loss reads, counts and infinities, to the last pair."""
    batch = place(make_batch(name), device)
    row = torch.linspace(-1.0, -0.6, len(batch.labels), dtype=torch.float64, device=device)
    own = None
    if batch.ref_labels is not None:
        own = torch.arange(60, device=device) * 7 % 111 - 1
    margin = CASES["margin"]
    assert margin.closeness == EUCLIDEAN
    tensors, rule = operator_arguments(margin, batch, selection, own, row)
    found = torch.ops.fastdml.pair_forward_cuda(*tensors, *rule, True)[0]
    wanted = torch.ops.fastdml.pair_forward_blocked(*tensors, *rule, True)[0][:8]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert found.isinf().equal(wanted.isinf())


@pytest.mark.parametrize("case", FAMILIES)
def test_zero_vectors_in_half(case: str, device: str) -> None:
    batch = place(make_batch("zero vectors").to(torch.float16), device)
    rows = batch.embeddings.any(dim=1)  # the gradient of a zero vector leaves the range of fp16
    upstream = torch.rand(40, dtype=torch.float64, device=device)
    *losses, gradient = losses_and_gradients(CASES[case], batch, upstream, "cuda")
    *truth, wanted = losses_and_gradients(CASES[case], batch.to(torch.float64), upstream, "reference")
    for found, exact in zip(losses, truth, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    scale = wanted[rows].abs().max().item()
    torch.testing.assert_close(gradient[rows].double(), wanted[rows], rtol=0, atol=2e-3 * scale)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 31, 32, 72, 256, 264])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width_of_a_row(width: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(width)
    batch = Batch(torch.randn(37, width, dtype=torch.float64) + 0.4, torch.randint(6, (37,)))
    assert_equals_the_reference(CASES[FAMILIES[0]], place(batch, device), dtype)


@pytest.mark.parametrize("rows", [95, 96, 97, 160, 192, 255, 256, 257, 352])
def test_every_remainder_of_a_block(rows: int, device: str) -> None:
    torch.manual_seed(rows)
    embeddings, labels = torch.randn(rows, 6, dtype=torch.float64) + 0.4, torch.randint(rows // 4, (rows,))
    batches = [Batch(embeddings, labels), Batch(embeddings, labels, embeddings[:-7] + 0.1, labels[:-7])]
    for batch in batches:
        assert_equals_the_reference(CASES[FAMILIES[0]], place(batch, device), torch.float64)


@pytest.mark.parametrize("size", [2.0**-30, 2.0**12])
def test_half_gradients_of_any_size(size: float, device: str) -> None:
    """Weights are kept in fp16: neither a mean over the batch nor a loss scale may take them out of it."""
    batch = place(make_batch("random").to(torch.float16), device)
    tensors, rule = operator_arguments(CASES["binomial deviance"], batch)
    _, units, norms, *rest = torch.ops.fastdml.pair_forward_cuda(*tensors, *rule, True)
    grads = torch.rand(3, 100, device=device) + 0.1
    backward = torch.ops.fastdml.pair_backward_cuda
    wanted = backward(grads, units, norms, *rest, *rule, True, False)[0].double()
    # What the output, in fp16, could not show of such gradients is undone by norms that are as much smaller
    # or larger; powers of two change nothing else.
    found = backward(grads * size, units, norms * size, *rest, *rule, True, False)[0].double()
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3 * wanted.abs().max().item())


def test_half_gradients_of_terms_of_any_size(device: str) -> None:
    """A sum may be e^60 and its gradient e^-60: only their product has to fit."""
    batch = place(make_batch("random"), device)
    case = CASES["multi-similarity, shifted exponents"]
    for scale in (1e-6, 1.0):
        upstream = torch.full((100,), scale, dtype=torch.float64, device=device)
        halves = batch.to(torch.float16)
        gradient = losses_and_gradients(case, halves, upstream, "cuda")[1].double() / scale
        wanted = losses_and_gradients(case, halves.to(torch.float64), upstream, "reference")[1] / scale
        step = 2.0**-24 / scale  # between fp16 numbers near zero
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=2e-3 * wanted.abs().max().item() + step)


def test_upstream_gradients_of_zero(device: str) -> None:
    for dtype in DTYPES:
        batch = place(make_batch("random").to(dtype), device)
        gradient = losses_and_gradients(CASES[FAMILIES[0]], batch, torch.zeros(100, device=device), "cuda")[1]
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("case", FAMILIES)
def test_two_runs_are_bitwise_equal(case: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated, the second run takes blocks and threads in the opposite order."""
    for name in OFTEN:
        for dtype in (torch.float32, torch.float16):
            batch = place(make_batch(name).to(dtype), device)
            upstream = torch.rand(len(batch.labels), device=device)
            monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "0")
            first = losses_and_gradients(CASES[case], batch, upstream, "cuda")
            monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "1")
            second = losses_and_gradients(CASES[case], batch, upstream, "cuda")
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("case", [*CASES, *UNNORMALISED])
def test_nan_in_nan_out(case: str, device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for bad in (torch.nan, torch.inf):
            batch = place(make_batch("random").to(dtype), device)
            batch.embeddings[5, 3] = bad
            tensors, rule = operator_arguments(
                (CASES | UNNORMALISED)[case], batch, (CASES | UNNORMALISED)[case].selection
            )
            statistics, *saved = torch.ops.fastdml.pair_forward_cuda(*tensors, *rule, True)
            assert statistics[[0, 2]].isnan().all()
            grads = torch.ones(3, 100, device=device)
            gradient = torch.ops.fastdml.pair_backward_cuda(grads, *saved, *rule, True, True)[0]
            assert gradient.isnan().all()


def test_a_nan_anchor_spoils_its_own_row_only(device: str) -> None:
    batch = place(make_batch("candidates").to(torch.float32), device)
    batch.embeddings[5, 3] = torch.nan
    for case in FAMILIES:
        upstream = torch.ones(60, device=device)
        losses = losses_and_gradients(CASES[case], batch, upstream, "cuda")[0]
        assert losses.isnan().nonzero().tolist() == [[5]]


def test_strided_tensors(device: str) -> None:
    torch.manual_seed(0)
    wide, labels, rows = torch.randn(40, 2 * 60), torch.randint(6, (120,)), torch.rand(120) - 1
    ref, ref_labels, own = torch.randn(50, 40), torch.randint(6, (50,)), torch.randint(-1, 50, (120,))
    strided = place(Batch(wide.T[::2], labels[::2], ref, ref_labels), device)
    sides = own.to(device)[::2], rows.to(device)[::2]
    assert not strided.embeddings.is_contiguous()
    assert not any(side.is_contiguous() for side in sides)
    packed = Batch(strided.embeddings.contiguous(), strided.labels.contiguous(), *strided[2:])
    found = []
    for batch, (its_own, row) in ((strided, sides), (packed, [side.contiguous() for side in sides])):
        tensors, rule = operator_arguments(CASES["margin"], batch, EVERYTHING, its_own, row)
        statistics, *saved = torch.ops.fastdml.pair_forward_cuda(*tensors, *rule, True)
        grads = torch.linspace(0.1, 1, 180, device=device).view(60, 3).T
        grads = grads if batch is strided else grads.contiguous()
        gradients = torch.ops.fastdml.pair_backward_cuda(grads, *saved, *rule, True, True)
        found.append([statistics, *gradients])
    for a, b in zip(*found, strict=True):
        assert a.abs().sum() > 0
        assert torch.equal(a, b)


def test_candidates_of_another_dtype(device: str) -> None:
    batch = make_batch("candidates")
    assert batch.ref_embeddings is not None
    rounded = batch.ref_embeddings.to(torch.bfloat16)
    mixed = Batch(batch.embeddings.float(), batch.labels, rounded, batch.ref_labels)
    plain = Batch(batch.embeddings.float(), batch.labels, rounded.float(), batch.ref_labels)
    upstream = torch.rand(60, device=device)
    found = losses_and_gradients(CASES[FAMILIES[0]], place(mixed, device), upstream, "cuda")
    wanted = losses_and_gradients(CASES[FAMILIES[0]], place(plain, device), upstream, "cuda")
    assert found[2].dtype == torch.bfloat16
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[2], wanted[2].to(torch.bfloat16))


@pytest.mark.parametrize("name", ["random", "candidates", "one sample"])
def test_operators_keep_torch_s_contract(name: str, device: str) -> None:
    batch = place(make_batch(name).to(torch.bfloat16), device)
    row = torch.rand(len(batch.labels), device=device) - 1
    own = None if batch.ref_labels is None else torch.arange(60, device=device)
    tensors, rule = operator_arguments(CASES["margin"], batch, MINED, own, row)
    forward = torch.ops.fastdml.pair_forward_cuda.default
    torch.library.opcheck(forward, (*tensors, *rule, True))
    statistics, *saved = forward(*tensors, *rule, True)
    backward = torch.ops.fastdml.pair_backward_cuda.default
    torch.library.opcheck(backward, (torch.ones_like(statistics[:3]), *saved, *rule, True, True))


def test_gradients_that_nobody_needs_are_not_made(device: str) -> None:
    batch = place(make_batch("candidates").to(torch.float32), device)
    tensors, rule = operator_arguments(CASES[FAMILIES[0]], batch)
    saved = torch.ops.fastdml.pair_forward_cuda(*tensors, *rule, True)[1:]
    upstream = torch.ones(3, 60, device=device)
    backward = torch.ops.fastdml.pair_backward_cuda
    both = backward(upstream, *saved, *rule, True, True)
    anchors = backward(upstream, *saved, *rule, True, False)
    candidates = backward(upstream, *saved, *rule, False, True)
    assert torch.equal(anchors[0], both[0])
    assert torch.equal(candidates[1], both[1])
    assert anchors[1].shape == candidates[0].shape == (0, 16)


def test_what_is_unknown_is_refused(device: str) -> None:
    batch = place(make_batch("random").to(torch.float32), device)
    tensors, (name, constants, selection, closeness) = operator_arguments(CASES["circle"], batch)
    forward = torch.ops.fastdml.pair_forward_cuda
    with pytest.raises(RuntimeError, match=r"terms must be exponential, hinge, .* or info_nce, got nothing"):
        forward(*tensors, "nothing", constants, selection, closeness, True)
    for code in (-1, 3, 5, 6):
        with pytest.raises(RuntimeError, match=f"closeness must be 0, 1, 2 or 4, got {code}"):
            forward(*tensors, name, constants, selection, code, True)
