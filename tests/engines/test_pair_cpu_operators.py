"""What the C++ operators of the pair engine keep to: determinism, NaN, strides, memory, torch's contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pair_cases import CASES, UNNORMALISED, Case, losses_and_gradients
from torch import Tensor

import fastdml
from fastdml.engines import pair_ops
from fastdml.engines.pair import pair_losses, pair_statistics
from fastdml.rules import MultiSimilarity
from pair_batches import Batch, make_batch

ALL = CASES | UNNORMALISED
MINED = CASES["multi-similarity, mined"]
# one of every family of terms, with and without selection, of every closeness
FAMILIES = {
    name: ALL[name]
    for name in (
        "multi-similarity, mined",
        "supcon",
        "contrastive",
        "contrastive, thresholds",
        "margin",
        "binomial deviance, mined",
        "nt-xent",
        "circle, mined",
        "contrastive, dot product",
    )
}
of_families = pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)

pytestmark = [
    pytest.mark.skipif("cpu" not in fastdml.available_backends(), reason="no native extension here"),
    pytest.mark.usefixtures("poisoned_memory"),
]


def forward_arguments(case: Case, batch: Batch, own: Tensor | None = None) -> tuple[Any, ...]:
    """All that the forward operator takes but `keep`."""
    row = None
    if case.boundary is not None:
        row = torch.full((len(batch.labels),), case.boundary)
    return (*batch, own, row, *rule_arguments(case))


def rule_arguments(case: Case) -> tuple[Any, ...]:
    """What both operators are told of the loss."""
    terms = case.rule.terms(case.closeness)
    return terms.name, terms.constants(), case.selection.constants(), case.closeness.code


@pytest.mark.parametrize("name", ["several blocks", "candidates", "more anchors than candidates"])
@of_families
def test_recomputed_closeness_gives_what_kept_one_gives(case: Case, name: str) -> None:
    batch = make_batch(name).to(torch.float32)
    own = None if batch.ref_labels is None else torch.arange(len(batch.labels)) % len(batch.ref_labels)
    found = []
    for keep in (True, False):
        statistics, *saved = torch.ops.fastdml.pair_forward_cpu(*forward_arguments(case, batch, own), keep)
        assert (saved[-1].numel() > 0) == keep
        upstream = torch.rand(3, len(batch.labels), generator=torch.Generator().manual_seed(2))
        gradients = torch.ops.fastdml.pair_backward_cpu(upstream, *saved, *rule_arguments(case), True, True)
        found.append([statistics, *gradients])
    for kept, recomputed in zip(*found, strict=True):
        assert torch.equal(kept, recomputed)


@of_families
def test_two_runs_are_bitwise_equal(case: Case) -> None:
    batch = make_batch("several blocks").to(torch.float32)
    upstream = torch.rand(len(batch.labels))
    first, second = (losses_and_gradients(case, batch, upstream, "cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@of_families
def test_the_number_of_threads_changes_rounding_at_most(case: Case) -> None:
    batch, threads = make_batch("several blocks").to(torch.float64), torch.get_num_threads()
    upstream = torch.rand(len(batch.labels))
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(losses_and_gradients(case, batch, upstream, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_nan_in_nan_out(case: Case, bad: float) -> None:
    batch = make_batch("sorted").to(torch.float32)
    batch.embeddings[5, 3] = bad
    statistics, *saved = torch.ops.fastdml.pair_forward_cpu(*forward_arguments(case, batch), True)
    assert statistics[0].isnan().all()
    assert statistics[2].isnan().all()
    upstream = torch.zeros(3, len(batch.labels))
    gradient, _ = torch.ops.fastdml.pair_backward_cpu(upstream, *saved, *rule_arguments(case), True, True)
    assert gradient.isnan().all()
    losses = losses_and_gradients(case, batch, torch.ones(96), "cpu")[0]
    plain = losses_and_gradients(case, batch, torch.ones(96), "reference")[0]
    assert plain.isnan().any()
    assert losses[plain.isnan()].isnan().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@of_families
def test_a_nan_anchor_spoils_its_own_row_only(case: Case, bad: float) -> None:
    batch = make_batch("candidates").to(torch.float32)
    batch.embeddings[5, 3] = bad
    statistics, *saved = torch.ops.fastdml.pair_forward_cpu(*forward_arguments(case, batch), True)
    assert statistics[0].isnan().nonzero().tolist() == [[5]]
    assert statistics[2].isnan().nonzero().tolist() == [[5]]
    upstream = torch.ones(3, len(batch.labels))
    of_anchors, of_candidates = torch.ops.fastdml.pair_backward_cpu(
        upstream, *saved, *rule_arguments(case), True, True
    )
    assert of_anchors.isnan().all(dim=1).nonzero().tolist() == [[5]]
    assert of_anchors.isnan().any(dim=1).nonzero().tolist() == [[5]]
    assert of_candidates.isnan().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@of_families
def test_a_nan_candidate_spoils_every_anchor(case: Case, bad: float) -> None:
    batch = make_batch("candidates").to(torch.float32)
    assert batch.ref_embeddings is not None
    batch.ref_embeddings[5, 3] = bad
    statistics, *saved = torch.ops.fastdml.pair_forward_cpu(*forward_arguments(case, batch), True)
    assert statistics[0].isnan().all()
    assert statistics[2].isnan().all()
    upstream = torch.ones(3, len(batch.labels))
    gradients = torch.ops.fastdml.pair_backward_cpu(upstream, *saved, *rule_arguments(case), True, True)
    assert gradients[0].isnan().all()


def test_strided_inputs() -> None:
    torch.manual_seed(0)
    wide = torch.randn(40, 2 * 60)
    strided = Batch(wide.T[::2], torch.randint(6, (120,))[::2], wide.T[1::2], torch.randint(6, (120,))[1::2])
    assert not any(tensor.is_contiguous() for tensor in strided if tensor is not None)
    packed = Batch(*(tensor.contiguous() for tensor in strided if tensor is not None))
    own, row = torch.randint(-1, 60, (120,))[::2], torch.linspace(-1, -0.8, 120)[::2]
    case, found = CASES["margin"], []
    for batch, own_of, row_of in ((strided, own, row), (packed, own.contiguous(), row.contiguous())):
        statistics, *saved = torch.ops.fastdml.pair_forward_cpu(
            *batch, own_of, row_of, *rule_arguments(case), True
        )
        upstream = torch.rand(60, 3, generator=torch.Generator().manual_seed(1)).T
        upstream = upstream if batch is strided else upstream.contiguous()
        found.append(
            [
                statistics,
                *torch.ops.fastdml.pair_backward_cpu(upstream, *saved, *rule_arguments(case), True, True),
            ]
        )
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_a_row_of_none_is_zero() -> None:
    batch = make_batch("random").to(torch.float32)
    case = CASES["margin"]
    none, zeros = (
        torch.ops.fastdml.pair_forward_cpu(*batch, None, row, *rule_arguments(case), True)
        for row in (None, torch.zeros(100))
    )
    assert all(torch.equal(a, b) for a, b in zip(none, zeros, strict=True))


@pytest.mark.parametrize("name", ["random", "candidates", "one sample"])
@of_families
def test_operators_keep_torch_s_contract(case: Case, name: str) -> None:
    batch = make_batch(name).to(torch.float32)
    own = None if batch.ref_labels is None else torch.arange(60)
    arguments = (*forward_arguments(case, batch, own), True)
    torch.library.opcheck(torch.ops.fastdml.pair_forward_cpu.default, arguments)
    statistics, *saved = torch.ops.fastdml.pair_forward_cpu(*arguments)
    torch.library.opcheck(
        torch.ops.fastdml.pair_backward_cpu.default,
        (torch.ones_like(statistics[:3]), *saved, *rule_arguments(case), True, True),
    )


def test_gradients_that_nobody_needs_are_not_made() -> None:
    batch = make_batch("candidates").to(torch.float32)
    embeddings = batch.embeddings.requires_grad_()
    with fastdml.use_backend("cpu"):
        losses = pair_losses(
            MINED.rule,
            embeddings,
            batch.labels,
            batch.ref_embeddings,
            batch.ref_labels,
            selection=MINED.selection,
        )
    losses["loss"].total.sum().backward()
    assert batch.ref_embeddings is not None
    assert batch.ref_embeddings.grad is None
    upstream = torch.ones(60)
    expected = losses_and_gradients(MINED, make_batch("candidates").to(torch.float32), upstream, "cpu")[-2]
    torch.testing.assert_close(embeddings.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["multi-similarity, mined", "contrastive", "circle"])
def test_saved_memory_is_linear_in_the_batch(name: str) -> None:
    """Beyond the budget of kept closeness, the forward saves the unit rows and a few numbers a row."""
    case, width, saved = CASES[name], 32, {}
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
            pair_statistics(
                case.rule, embeddings, torch.arange(rows) // 8,
                closeness=case.closeness, selection=case.selection,
            )  # fmt: skip
        saved[rows] = total
    # embeddings and unit rows, norm, order, three of spans, four of rows
    row_bytes = 2 * 4 * width + 4 + 8 + 3 * 4 + 4 * 4
    assert saved == {rows: rows * row_bytes for rows in saved}


@pytest.mark.parametrize(
    ("anchors", "candidates"),
    [(1, 0), (255, 0), (257, 0), (3000, 0), (4096, 0), (4400, 0), (300, 1000), (9000, 2000)],
)
def test_python_and_cpp_agree_on_what_is_kept(anchors: int, candidates: int) -> None:
    ref = (torch.randn(candidates, 2), torch.arange(candidates)) if candidates else (None, None)
    batch = Batch(torch.randn(anchors, 2), torch.arange(anchors), *ref)
    tiles = torch.ops.fastdml.pair_forward_cpu(*forward_arguments(MINED, batch), True)[-1]
    assert tiles.numel() == pair_ops.kept_elements(anchors, candidates or anchors, not candidates)


def test_refuses_exponents_beyond_float32() -> None:
    batch, rule = make_batch("random").to(torch.float32), MultiSimilarity(beta=400, base=0)
    with fastdml.use_backend("cpu"), pytest.raises(fastdml.BackendError, match="float32"):
        pair_losses(rule, batch.embeddings, batch.labels)
