"""The pair kernels on the CPU, by Triton's interpreter, against the reference in float64.

In float32 the error may be twice that of the reference in float32. In 16 bits dense PyTorch is no measure, it
overflows: the truth is the reference in float64 on the unit rows as the kernels store them.
"""

from __future__ import annotations

import pytest
import torch
from interpreted_pairs import FORMS, check, part_of, random_batch, run, upstream_of, use_form
from pair_cases import AT_A_MARGIN, CASES, EUCLIDEAN, MINED, Case, losses_and_gradients
from torch import Tensor

import fastdml
from fastdml.engines.pair import pair_losses
from fastdml.rules import COSINE, Closeness, Contrastive, MultiSimilarity
from fastdml.triton_kernels import configs
from fastdml.triton_kernels.units import unit_rows
from pair_batches import Batch, make_batch

# numpy warns of overflows at pairs that do not count, whose values a select drops
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("poisoned_memory"),
]

BOTH = [CASES["multi-similarity, mined"], CASES["contrastive"]]
IDS = ["multi-similarity, mined", "contrastive"]
BATCHES_OF_RULES = ("candidates", "some without positives")


@pytest.mark.parametrize("name", BATCHES_OF_RULES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rules(monkeypatch: pytest.MonkeyPatch, case: Case, form: str, name: str) -> None:
    use_form(monkeypatch, form)
    check(case, part_of(name))


def stored_rows(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The unit rows as the kernels round them, and the lengths of the rows, in float64."""
    units, norms = torch.empty_like(embeddings), torch.empty(len(embeddings))
    unit_rows(embeddings, torch.arange(len(embeddings)), units, norms)
    exact = torch.nn.functional.normalize(embeddings.double(), dim=1)
    rounding = torch.finfo(embeddings.dtype).eps * exact.abs() + torch.finfo(embeddings.dtype).smallest_normal
    assert ((units.double() - exact).abs() <= rounding).all()
    return units.double(), norms.double()[:, None]


def truth_of_stored_rows(case: Case, batch: Batch) -> list[Tensor]:
    """Losses and gradients in float64, of rows that are of length one but for their rounding."""
    units, norms = stored_rows(batch.embeddings)
    refs, ref_norms = (None, None) if batch.ref_embeddings is None else stored_rows(batch.ref_embeddings)
    stored = Batch(units, batch.labels, refs, batch.ref_labels)
    case = case._replace(closeness=Closeness(case.closeness.kind, normalised=False))
    found = losses_and_gradients(case, stored, upstream_of(batch), "reference")
    sides = [(units, norms)] if refs is None else [(units, norms), (refs, ref_norms)]
    for at, (rows, lengths) in enumerate(sides, start=len(found) - len(sides)):
        along = (found[at] * rows).sum(dim=1, keepdim=True) / (rows * rows).sum(dim=1, keepdim=True)
        found[at] = (found[at] - along * rows) / lengths
    return found


# every rule with both dtypes and both batches, and every two of those with half of the rules
@pytest.mark.parametrize(
    ("rule", "dtype", "name"),
    [
        (rule, dtype, BATCHES_OF_RULES[(at + half) % 2])
        for at, rule in enumerate(CASES)
        for half, dtype in enumerate((torch.float16, torch.bfloat16))
    ],
    ids=str,
)
def test_rules_in_16_bits(rule: str, dtype: torch.dtype, name: str) -> None:
    case, batch = CASES[rule], part_of(name).to(dtype)
    found, truth = run(case, batch), truth_of_stored_rows(case, batch)
    gradients = 1 if batch.ref_embeddings is None else 2
    for at, (value, exact) in enumerate(zip(found, truth, strict=True)):
        is_gradient = at >= len(found) - gradients
        assert value.dtype == (dtype if is_gradient else torch.float32)
        share = 2 * torch.finfo(dtype).eps if is_gradient else 1e-5
        error, scale = (value.double() - exact).abs().max().item(), exact.abs().max().item()
        assert error <= share * scale, f"result {at}: error {error:.3e} of {scale:.3e}"


FORMS_AND_BATCHES = [
    ("rows", "one sample"), ("blocks", "one pair"), ("rows", "one class"), ("blocks", "all distinct"),
    ("rows", "one column"), ("blocks", "duplicates"), ("rows", "huge labels"), ("blocks", "one candidate"),
    ("blocks", "wide"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "form", "name"),
    [
        (rule, form, name)
        for rule in IDS
        for form, name in FORMS_AND_BATCHES
        if (rule, name) not in AT_A_MARGIN
    ],
)
def test_batches(monkeypatch: pytest.MonkeyPatch, rule: str, form: str, name: str) -> None:
    use_form(monkeypatch, form)
    check(CASES[rule], make_batch(name))


@pytest.mark.parametrize("refs", [0, 41])
@pytest.mark.parametrize(("form", "width"), [("rows", 64), ("rows", 96), ("rows", 130), ("blocks", 130)])
def test_widths(monkeypatch: pytest.MonkeyPatch, form: str, width: int, refs: int) -> None:
    use_form(monkeypatch, form)
    check(CASES["multi-similarity, mined"], random_batch(50, width, refs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "refs"), [(17, 0), (100, 0), (1, 40), (33, 1), (20, 150)])
def test_counts(monkeypatch: pytest.MonkeyPatch, form: str, n: int, refs: int) -> None:
    use_form(monkeypatch, form)
    check(CASES["margin"], random_batch(n, 16, refs, classes=20))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", [*BOTH, CASES["nt-xent"]], ids=[*IDS, "nt-xent"])
def test_anchors_among_the_candidates(monkeypatch: pytest.MonkeyPatch, case: Case, form: str) -> None:
    use_form(monkeypatch, form)
    batch = random_batch(40, 16, refs=70)
    assert batch.ref_embeddings is not None
    assert batch.ref_labels is not None
    own = torch.randperm(70, generator=torch.Generator().manual_seed(2))[:40]
    own[::5] = -1
    batch.ref_labels[own[own >= 0]] = batch.labels[own >= 0]
    batch.ref_embeddings[own[own >= 0]] = batch.embeddings[own >= 0]
    check(case, batch, own)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("exponent", [-12, 17])
@pytest.mark.parametrize("case", BOTH, ids=IDS)
def test_float16_takes_any_upstream_gradient(
    monkeypatch: pytest.MonkeyPatch, case: Case, form: str, exponent: int
) -> None:
    """As float16 weights, the gradients of a mean would underflow, those of a scaled loss overflow."""
    use_form(monkeypatch, form)
    batch = random_batch(40, 32).to(torch.float16)
    upstream = upstream_of(batch)
    base = losses_and_gradients(case, batch, upstream, "triton")[-1].double()
    # rows as much longer as the upstream gradient is larger would leave the gradients as they are
    lengths = 2.0 ** (exponent / 2)
    batch = batch._replace(embeddings=batch.embeddings * lengths)
    scaled = losses_and_gradients(case, batch, upstream * 2.0**exponent, "triton")[-1].double()
    torch.testing.assert_close(scaled / lengths, base, rtol=2e-2, atol=1e-3 * base.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["multi-similarity", "generalised lifted"])
def test_zero_vectors(monkeypatch: pytest.MonkeyPatch, name: str, form: str) -> None:
    use_form(monkeypatch, form)
    case, batch = CASES[name], random_batch(40, 16, refs=30)
    assert batch.ref_embeddings is not None
    batch.embeddings[[3, 7]] = 0
    batch.ref_embeddings[4] = 0
    found = run(case, batch.to(torch.float32))
    truth = losses_and_gradients(case, batch, upstream_of(batch), "reference")
    for at, (value, exact) in enumerate(zip(found, truth, strict=True)):
        # rows of length 0 are divided by 1e-12, so every row has its own scale
        scale = exact.reshape(len(value), -1).norm(dim=1)
        error = (value - exact).reshape(len(value), -1).norm(dim=1)
        assert (error <= 4e-6 * scale + 4e-6).all(), at


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("refs", "value"), [(0, torch.nan), (30, torch.inf)])
@pytest.mark.parametrize("case", BOTH, ids=IDS)
def test_candidate_that_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, case: Case, refs: int, value: float, dtype: torch.dtype, form: str
) -> None:
    use_form(monkeypatch, form)
    batch = random_batch(40, 16, refs)
    rows = batch.embeddings if batch.ref_embeddings is None else batch.ref_embeddings
    rows[11, 3] = value
    found = run(case, batch.to(dtype))
    assert found[0].isnan().all()
    gradient = found[-1] if batch.ref_embeddings is None else found[-2]
    assert gradient.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", BOTH, ids=IDS)
def test_anchor_that_is_not_finite_spoils_its_own_row(case: Case, dtype: torch.dtype) -> None:
    batch = random_batch(40, 16, refs=30)
    batch.embeddings[11, 3] = torch.nan
    found = run(case, batch.to(dtype))
    assert found[0].isnan().nonzero().tolist() == [[11]]
    assert found[-2].isnan().any(dim=1).nonzero().tolist() == [[11]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("refs", [0, 40])
def test_shared_columns(monkeypatch: pytest.MonkeyPatch, form: str, refs: int) -> None:
    """Several programs share the columns of a row block."""
    use_form(monkeypatch, form)
    monkeypatch.setattr(configs, "column_splits", lambda *_: 3)
    check(CASES["margin"]._replace(selection=MINED), random_batch(90, 16, refs))


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_are_bitwise_equal(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    use_form(monkeypatch, form)
    batch = random_batch(70, 24, refs=50).to(torch.bfloat16)
    first, second = (run(CASES["multi-similarity, mined"], batch) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_rows_that_are_not_contiguous() -> None:
    batch = random_batch(30, 24).to(torch.float32)
    wide = torch.randn(24, 60).T[::2]
    wide.copy_(batch.embeddings)
    assert not wide.is_contiguous()
    upstream, case = upstream_of(batch), CASES["multi-similarity, mined"]
    gradients = []
    for rows in (batch.embeddings, wide):
        leaf = rows.requires_grad_()
        with fastdml.use_backend("triton"):
            loss = pair_losses(case.rule, leaf, batch.labels)["loss"].total
        gradients += torch.autograd.grad((loss * upstream).sum(), [leaf])
    assert torch.equal(*gradients)


def test_only_the_gradient_that_is_needed() -> None:
    batch, case = random_batch(30, 16, refs=20).to(torch.float32), CASES["multi-similarity"]
    assert batch.ref_embeddings is not None
    upstream = upstream_of(batch).float()
    both = losses_and_gradients(case, batch, upstream, "triton")
    refs = batch.ref_embeddings.clone().requires_grad_()
    with fastdml.use_backend("triton"):
        losses = pair_losses(case.rule, batch.embeddings, batch.labels, refs, batch.ref_labels)
    (losses["loss"].total * upstream).sum().backward()
    assert refs.grad is not None
    assert torch.equal(refs.grad, both[-1])


@pytest.mark.parametrize("refs", [0, 20])
def test_operators(refs: int) -> None:
    batch, terms = random_batch(30, 16, refs).to(torch.float32), MultiSimilarity().terms(COSINE)
    own = torch.full((30,), -1) if refs else None
    run(CASES["multi-similarity"], batch)
    rule = (terms.name, terms.constants(), MINED.constants(), COSINE.code)
    given = (
        batch.embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels, own, None, *rule,
    )  # fmt: skip
    forward, backward = (
        torch.ops.fastdml.pair_forward_triton.default,
        torch.ops.fastdml.pair_backward_triton.default,
    )
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(forward, (*given, True), test_utils=checks)
    statistics, *saved = forward(*given, True)
    zeros = forward(*given[:5], torch.zeros(30), *rule, True)[0]
    assert torch.equal(statistics, zeros)
    grads = torch.rand(3, 30)
    torch.library.opcheck(backward, (grads, *saved, *rule, True, refs > 0), test_utils=checks)


def test_what_cannot_run_is_refused() -> None:
    batch = random_batch(8, 4)
    with pytest.raises(fastdml.BackendError, match="float64"):
        run(CASES["multi-similarity"], batch)
    with pytest.raises(fastdml.BackendError, match="not normalised"):
        run(Case(Contrastive(), EUCLIDEAN._replace(normalised=False)), batch.to(torch.float32))
