"""The C++ operators of the pair engine against the dense reference in float64."""

from __future__ import annotations

import pytest
import torch
from pair_cases import AT_A_MARGIN, CASES, UNNORMALISED, Case, losses_and_gradients
from torch import Tensor

import fastdml
from fastdml.engines.pair import pair_statistics
from fastdml.rules import Closeness, PairStatistics
from pair_batches import BATCHES, Batch, assert_as_accurate, make_batch

ALL = CASES | UNNORMALISED

OF_CASES_AND_BATCHES = pytest.mark.parametrize(
    ("name", "batch_name"),
    [(name, batch) for name in ALL for batch in BATCHES if (name, batch) not in AT_A_MARGIN],
)
# By how much an exponent moves with the closeness. Positives are summed over one product of rows and weighed
# over another, which need not round alike; a single product, as on the reference, cancels its own rounding.
STEEPNESS = {
    "multi-similarity, shifted exponents": 130,
    "circle": 4 * 80,
    "circle, mined": 4 * 80,
}

pytestmark = [
    pytest.mark.skipif("cpu" not in fastdml.available_backends(), reason="no native extension here"),
    pytest.mark.usefixtures("poisoned_memory"),
]


def upstream_of(batch: Batch) -> Tensor:
    """Gradients of the losses, about as their mean makes them."""
    count = len(batch.labels)
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / count


def assert_equals_the_reference(
    name: str, batch: Batch, dtype: torch.dtype, own: Tensor | None = None
) -> None:
    """Losses and gradients as accurate as plain PyTorch's, which computes half precision in float32 too."""
    case, batch, upstream = ALL[name], batch.to(dtype), upstream_of(batch)
    found = losses_and_gradients(case, batch, upstream, "cpu", own)
    plain_dtype = dtype if dtype.itemsize > 2 else torch.float32
    plain = losses_and_gradients(case, batch.to(plain_dtype), upstream, "reference", own)
    truth = losses_and_gradients(case, batch.to(torch.float64), upstream, "reference", own)
    rounding = STEEPNESS.get(name, 0) * torch.finfo(plain_dtype).eps / 2
    for at, (value, same, exact) in enumerate(zip(found, plain, truth, strict=True)):
        error = (same.to(value.dtype) - exact).abs()
        if exact.numel() > 0:
            error = error + rounding * (
                exact.abs().max() if exact.ndim == 2 else exact.abs().max().clamp_min(1)
            )
        assert_as_accurate(value, exact + error, exact, f"result {at} of {len(found)}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@OF_CASES_AND_BATCHES
def test_equals_the_reference(name: str, batch_name: str, dtype: torch.dtype) -> None:
    assert_equals_the_reference(name, make_batch(batch_name), dtype)


def statistics_of(case: Case, batch: Batch, backend: str, own: Tensor | None = None) -> PairStatistics:
    row = None
    if case.boundary is not None:
        row = torch.full((len(batch.labels),), case.boundary, dtype=torch.float64)
    with fastdml.use_backend(backend):
        return pair_statistics(
            case.rule, batch.embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels,
            closeness=case.closeness, selection=case.selection, own=own, row=row,
        )  # fmt: skip


def assert_statistics_equal(found: PairStatistics, truth: PairStatistics) -> None:
    """The same counts, and other numbers to within the rounding of float64; those of no pair are infinite."""
    for field in ("negative_second", "positives", "negatives"):
        assert torch.equal(getattr(found, field), getattr(truth, field)), field
    some = truth.positives > 0
    for field, value, expected in zip(PairStatistics._fields, found, truth, strict=True):
        if field == "positive_row":  # read by positives alone
            value, expected = value[some], expected[some]
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12, msg=lambda m, f=field: f"{f}: {m}")


@OF_CASES_AND_BATCHES
def test_every_statistic_equals_the_reference(name: str, batch_name: str) -> None:
    batch = make_batch(batch_name)
    found, truth = (statistics_of(ALL[name], batch, backend) for backend in ("cpu", "reference"))
    assert_statistics_equal(found, truth)


def with_own() -> tuple[Batch, Tensor]:
    """Anchors that are candidates of their own label, of another, the same one twice, or none."""
    batch = make_batch("candidates")
    assert batch.ref_labels is not None
    own = torch.arange(60) * 7 % 110
    own[::5] = -1
    own[1] = own[2]
    for anchor in range(3, 60, 4):
        own[anchor] = int((batch.ref_labels == batch.labels[anchor]).nonzero()[0])
    same = batch.ref_labels[own.clamp_min(0)] == batch.labels
    assert (same & (own >= 0)).any()
    assert (~same & (own >= 0)).any()
    return batch, own


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_candidate_that_is_the_anchor_itself_is_no_pair(name: str, dtype: torch.dtype) -> None:
    batch, own = with_own()
    assert_equals_the_reference(name, batch, dtype, own)
    found, truth = (statistics_of(ALL[name], batch, backend, own) for backend in ("cpu", "reference"))
    assert_statistics_equal(found, truth)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_a_batch_against_itself_is_its_own_candidates(case: Case) -> None:
    batch = make_batch("random")
    twice = Batch(batch.embeddings, batch.labels, batch.embeddings, batch.labels)
    upstream = upstream_of(batch)
    found = losses_and_gradients(case, twice, upstream, "cpu", torch.arange(100))
    alone = losses_and_gradients(case, batch, upstream, "cpu")
    # the gradient of the batch is that of its rows as anchors and as candidates
    for a, b in zip([*found[:-2], found[-2] + found[-1]], alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("code", [5, 6, 3])
def test_refuses_closeness_that_it_does_not_have(code: int) -> None:
    batch, terms = make_batch("random"), CASES["contrastive"].rule.terms(Closeness())
    with pytest.raises(RuntimeError, match=f"closeness 0, 1, 2 and 4, got {code}"):
        torch.ops.fastdml.pair_forward_cpu(
            *batch,
            None,
            None,
            terms.name,
            terms.constants(),
            CASES["contrastive"].selection.constants(),
            code,
            True,
        )


def test_refuses_terms_that_it_does_not_have() -> None:
    batch = make_batch("random")
    with pytest.raises(RuntimeError, match="no terms named quartic"):
        torch.ops.fastdml.pair_forward_cpu(
            *batch, None, None, "quartic", [1.0], CASES["contrastive"].selection.constants(), 0, True
        )
