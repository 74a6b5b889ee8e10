"""Triplet losses over all triplets, against pytorch-metric-learning, which lists them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor

import fastdml
from fastdml.engines.positives import positive_pairs
from fastdml.engines.sides import compared_sides
from fastdml.engines.triplets import list_triplets, triplet_losses
from fastdml.resident_memory import can_measure
from fastdml.rules import Closeness, Selection
from pair_batches import Batch, assert_as_accurate, make_batch

ROOT = Path(__file__).resolve().parents[2]
DISTANCES: dict[str, tuple[Closeness, Any]] = {
    "cosine": (Closeness(), distances.CosineSimilarity()),
    "euclidean": (Closeness("euclidean"), distances.LpDistance()),
    "squared": (Closeness("squared"), distances.LpDistance(power=2)),
    "dot product": (
        Closeness("inner", normalised=False),
        distances.DotProductSimilarity(normalize_embeddings=False),
    ),
    "euclidean of any length": (
        Closeness("euclidean", normalised=False),
        distances.LpDistance(normalize_embeddings=False),
    ),
}
MINED = [("all", 0.2), ("hard", 0.2), ("semihard", 0.2), ("easy", 0.02), ("hard", -0.1)]
FORMS = {"plain": {}, "smooth": {"smooth": True}, "swap": {"swap": True}}

BACKENDS = [name for name in ("cpu", "blocked") if name in fastdml.available_backends()]

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=["cpu", "blocked"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in BACKENDS:
        pytest.skip(f"no {request.param} backend here")
    return str(request.param)


def leaves_of(batch: Batch) -> list[Tensor]:
    leaves = [batch.embeddings.detach().clone().requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.detach().clone().requires_grad_())
    return leaves


def fused(batch: Batch, closeness: Closeness, backend: str | None, **options: Any) -> list[Tensor]:
    """The mean over the triplets that count, and its gradients."""
    leaves = leaves_of(batch)
    with fastdml.use_backend(backend):
        found = triplet_losses(
            leaves[0], batch.labels, *leaves[1:], ref_labels=batch.ref_labels, closeness=closeness, **options
        )
        mean = found.total.sum() / found.count.sum().clamp_min(1)
        return [mean.detach(), *torch.autograd.grad(mean, leaves)]


def listed(
    batch: Batch, distance: Any, indices: Any, low: float, high: float, **options: Any
) -> list[Tensor]:
    """The same by pytorch-metric-learning."""
    reducer = reducers.MeanReducer()
    if low > -math.inf or high < math.inf:
        reducer = reducers.ThresholdReducer(
            low=low if low > -math.inf else None, high=high if high < math.inf else None
        )
    loss = losses.TripletMarginLoss(
        options.get("margin", 0.05), options.get("swap", False), options.get("smooth", False),
        distance=distance, reducer=reducer,
    )  # fmt: skip
    leaves = leaves_of(batch)
    value = loss(leaves[0], batch.labels, indices, *leaves[1:], ref_labels=batch.ref_labels)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True)]
    return [value.detach(), *filled]


def assert_equal_in_double(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    for value, exact in zip(found, expected, strict=True):
        scale = exact.abs().max().item() if exact.numel() else 0.0
        error = (value - exact).abs().max().item() if exact.numel() else 0.0
        assert error <= 1e-9 * scale + 1e-11, f"{what}: error {error:.3e} at scale {scale:.3e}"


@pytest.mark.parametrize("name", DISTANCES)
def test_equals_pytorch_metric_learning(name: str, batch: Batch) -> None:
    closeness, distance = DISTANCES[name]
    for low in (-math.inf, 0.0):
        expected = listed(batch, distance, None, low, math.inf)
        for backend in BACKENDS:
            found = fused(batch, closeness, backend, low=low)
            assert_equal_in_double(found, expected, f"{backend}, low {low}")


@pytest.mark.parametrize("name", ["cosine", "euclidean", "squared"])
@pytest.mark.parametrize("mined", MINED, ids=str)
def test_miner_fuses(name: str, mined: tuple[str, float], batch: Batch) -> None:
    closeness, distance = DISTANCES[name]
    if name != "cosine" and (batch.embeddings == 0).all(dim=1).any():
        pytest.skip("a zero vector is equally far from all: which triplets are hard is a matter of rounding")
    indices = miners.TripletMarginMiner(mined[1], mined[0], distance=distance)(
        batch.embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels
    )
    for low in (-math.inf, 0.0):
        expected = listed(batch, distance, indices, low, math.inf, margin=0.1)
        for backend in BACKENDS:
            found = fused(batch, closeness, backend, margin=0.1, low=low, mined=mined)
            assert_equal_in_double(found, expected, f"{backend}, low {low}")


@pytest.mark.parametrize(
    "bounds", [(-1.0, 0.3), (0.05, 0.3), (0.1, math.inf), (0.3, 0.1), (-2.0, -1.0)], ids=str
)
@pytest.mark.parametrize("mined", [None, ("all", 0.3), ("semihard", 0.2), ("easy", -0.1)], ids=str)
@pytest.mark.parametrize("name", ["random", "candidates"])
def test_thresholds_of_the_reducer(
    name: str, mined: tuple[str, float] | None, bounds: tuple[float, float], backend: str
) -> None:
    batch, (closeness, distance) = make_batch(name), DISTANCES["euclidean"]
    indices = None
    if mined is not None:
        miner = miners.TripletMarginMiner(mined[1], mined[0], distance=distance)
        indices = miner(batch.embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels)
    expected = listed(batch, distance, indices, *bounds, margin=0.2)
    found = fused(batch, closeness, backend, margin=0.2, low=bounds[0], high=bounds[1], mined=mined)
    assert_equal_in_double(found, expected, "mean")


@pytest.mark.parametrize("form", ["smooth", "swap"])
@pytest.mark.parametrize("name", DISTANCES)
def test_smooth_and_swap_equal_pytorch_metric_learning(name: str, form: str, batch: Batch) -> None:
    if form == "swap" and batch.ref_embeddings is not None:
        pytest.skip("swap takes no candidates")
    if form == "swap" and (batch.embeddings == 0).all(dim=1).any():
        pytest.skip("a zero vector is equally far from all: whether it is swapped is a matter of rounding")
    if len(batch.labels) > 250 and name not in ("cosine", "euclidean"):
        pytest.skip("millions of triplets, shown for two distances")
    closeness, distance = DISTANCES[name]
    for low, mined in ((0.1, None), (-math.inf, ("all", 0.3))):
        indices = None
        if mined is not None:
            if (batch.embeddings == 0).all(dim=1).any() or len(batch.labels) > 250:
                continue
            miner = miners.TripletMarginMiner(mined[1], mined[0], distance=distance)
            indices = miner(batch.embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels)
        expected = listed(batch, distance, indices, low, math.inf, **FORMS[form])
        found = fused(batch, closeness, None, low=low, mined=mined, **FORMS[form])
        assert_equal_in_double(found, expected, f"low {low}, mined {mined}")


SELECTIONS = {
    "multi-similarity": (Selection(True, 0.1, 0.1), miners.MultiSimilarityMiner(0.1), "cosine"),
    "tight multi-similarity": (Selection(True, -0.2, -0.2), miners.MultiSimilarityMiner(-0.2), "cosine"),
    "pair margin": (
        Selection(negative=-1.2, positive=-0.7),
        miners.PairMarginMiner(0.7, 1.2, distance=distances.LpDistance()),
        "euclidean",
    ),
    "none left": (
        Selection(negative=-0.01, positive=-1.99),
        miners.PairMarginMiner(1.99, 0.01, distance=distances.LpDistance()),
        "euclidean",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chosen", SELECTIONS)
@pytest.mark.parametrize("name", ["random", "candidates", "some without positives", "all distinct"])
def test_selection_of_pairs_fuses(name: str, chosen: str, form: str, backend: str) -> None:
    batch, (selection, miner, metric) = make_batch(name), SELECTIONS[chosen]
    if form == "swap" and batch.ref_embeddings is not None:
        pytest.skip("swap takes no candidates")
    if form != "plain" and backend == "cpu":
        pytest.skip("runs in plain PyTorch")
    closeness, distance = DISTANCES[metric]
    indices = miner(batch.embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels)
    for low in (-math.inf, 0.0):
        expected = listed(batch, distance, indices, low, math.inf, **FORMS[form])
        found = fused(batch, closeness, backend, low=low, selection=selection, **FORMS[form])
        if not all(len(index) for index in indices):
            assert found[0] == 0
            continue
        assert_equal_in_double(found, expected, f"low {low}")


def triplets_on_the_margin(batch: Batch, closeness: Closeness, margin: float = 0.05) -> int:
    """How many triplets of exact embeddings float32 cannot tell from those whose loss is just 0."""
    sides = compared_sides(closeness, *batch, None)
    everything = slice(0, len(batch.labels))
    c, negatives = sides.closeness_of(everything), sides.negatives_of(everything)
    anchors, others = positive_pairs(batch.labels, batch.ref_labels, None)
    violation = c[anchors] - c[anchors, others][:, None] + margin
    close = violation.abs() <= 4 * torch.finfo(torch.float32).eps * c.abs().max()
    return int((close & negatives[anchors]).sum())


def largest_share_of_a_triplet(batch: Batch, closeness: Closeness) -> float:
    """A bound of the gradient that one triplet adds to the mean over all with a loss."""
    count = triplet_losses(*batch, closeness=closeness, low=0.0).count.sum().clamp_min(1)
    shortest = min(
        rows.norm(dim=1).min() for rows in (batch.embeddings, batch.ref_embeddings) if rows is not None
    )
    return float(4 / (count * shortest)) if shortest > 0 else 0.0


@pytest.mark.parametrize("name", ["cosine", "euclidean", "squared"])
@pytest.mark.parametrize("low", [-math.inf, 0.0])
def test_is_as_accurate_as_pytorch_in_float32(name: str, low: float, batch: Batch) -> None:
    closeness, single = DISTANCES[name][0], batch.to(torch.float32)
    if len(batch.labels) > 500:
        pytest.skip("the dense form lists every triplet")
    if batch.embeddings.shape[1] == 1 and name == "cosine":
        pytest.skip("the gradient is zero: what is left over is rounding")
    plain = fused(single, closeness, "reference", low=low)
    exact_batch = single.to(torch.float64)
    truth = fused(exact_batch, closeness, "reference", low=low)
    # a triplet on the margin may fall on either side of it, with all of its gradient
    step = triplets_on_the_margin(exact_batch, closeness) * largest_share_of_a_triplet(exact_batch, closeness)
    for backend in BACKENDS:
        found = fused(single, closeness, backend, low=low)
        assert_as_accurate(found[0], plain[0], truth[0], f"{backend}, mean")
        for value, same_dtype, exact in zip(found[1:], plain[1:], truth[1:], strict=True):
            error, plain_error = ((x.double() - exact).abs().max().item() for x in (value, same_dtype))
            allowed = 2 * plain_error + 1e-6 * exact.abs().max().item() + step
            assert error <= allowed, (
                f"{backend}: gradient off by {error:.3e}, at most {allowed:.3e} is allowed"
            )


@pytest.mark.parametrize("mined", [None, *MINED], ids=str)
def test_listed_triplets_are_the_miner_s_in_its_order(mined: tuple[str, float] | None, batch: Batch) -> None:
    if len(batch.labels) > 500:
        pytest.skip("millions of triplets")
    closeness, distance = DISTANCES["cosine"]
    kind, margin = mined or ("all", math.inf)
    expected = miners.TripletMarginMiner(margin, kind, distance=distance)(
        batch.embeddings, batch.labels, batch.ref_embeddings, batch.ref_labels
    )
    found = list_triplets(*batch, closeness=closeness, mined=mined)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_an_anchor_s_own_candidate_is_no_pair(backend: str) -> None:
    batch, closeness = make_batch("random"), Closeness("euclidean")
    within = fused(batch, closeness, backend, low=-math.inf)
    # the anchors again as candidates, in another order and one of them under another label
    order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(0))
    ref_labels, own = batch.labels[order], order.argsort()
    against = Batch(batch.embeddings, batch.labels, batch.embeddings[order], ref_labels)
    found = fused(against, closeness, backend, low=-math.inf, own=own)
    torch.testing.assert_close(found[0], within[0])
    torch.testing.assert_close(found[1] + found[2][own], within[1])
    relabelled = ref_labels.clone()
    relabelled[own[3]] = 1000
    changed = against._replace(ref_labels=relabelled)
    for how in (backend, "reference"):
        with fastdml.use_backend(how):
            counts = triplet_losses(*changed, closeness=closeness, own=own).count
        same = ((relabelled == batch.labels[3]) & (torch.arange(100) != own[3])).sum()
        assert counts[3] == same * (100 - 1 - same)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DISTANCES)
def test_gradients_are_those_of_finite_differences(name: str, form: str) -> None:
    torch.manual_seed(3)
    embeddings = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(12) % 4

    def totals(embeddings: Tensor) -> Tensor:
        return triplet_losses(
            embeddings, labels, closeness=DISTANCES[name][0], margin=0.33, **FORMS[form]
        ).total

    assert torch.autograd.gradcheck(totals, (embeddings,))


def test_the_reference_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)

    def totals(embeddings: Tensor) -> Tensor:
        return triplet_losses(embeddings, torch.arange(8) % 3, closeness=Closeness(), margin=0.2).total

    with fastdml.use_backend("reference"):
        assert torch.autograd.gradgradcheck(totals, (embeddings,))


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_are_bitwise_equal(form: str) -> None:
    batch = make_batch("several blocks").to(torch.float32)
    first, second = (fused(batch, Closeness("euclidean"), None, **FORMS[form]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("low", [-math.inf, 0.0])
def test_nan_in_nan_out(form: str, low: float) -> None:
    batch = make_batch("random").to(torch.float32)
    batch.embeddings[5, 3] = torch.nan
    losses = triplet_losses(*batch, closeness=Closeness("euclidean"), low=low, **FORMS[form])
    assert losses.total.isnan().all()
    _, gradient = fused(batch, Closeness("euclidean"), None, low=low, **FORMS[form])
    assert gradient.isnan().any()


def test_anchors_without_positives_have_no_triplets() -> None:
    batch = make_batch("all distinct")
    losses = triplet_losses(batch.embeddings.requires_grad_(), batch.labels, closeness=Closeness())
    losses.total.sum().backward()
    assert losses.total.tolist() == losses.count.tolist() == [0] * 40
    assert batch.embeddings.grad is not None
    assert not batch.embeddings.grad.any()


@pytest.mark.parametrize("form", ["plain", "smooth"])
def test_no_candidates_and_no_anchors(form: str) -> None:
    embeddings, labels = torch.randn(4, 3, requires_grad=True), torch.zeros(4, dtype=torch.int64)
    alone = triplet_losses(
        embeddings, labels, embeddings[:0], labels[:0], closeness=Closeness(), **FORMS[form]
    )
    assert alone.total.tolist() == alone.count.tolist() == [0] * 4
    nobody = triplet_losses(embeddings[:0], labels[:0], closeness=Closeness(), **FORMS[form])
    assert nobody.total.shape == nobody.count.shape == (0,)


def test_half_precision_gives_gradients_of_its_dtype(backend: str) -> None:
    batch = make_batch("random").to(torch.bfloat16)
    found = fused(batch, Closeness("euclidean"), backend)
    single = fused(batch.to(torch.float32), Closeness("euclidean"), backend)
    assert found[1].dtype == torch.bfloat16
    assert torch.equal(found[0], single[0])
    assert torch.equal(found[1], single[1].bfloat16())


def test_refusals_name_the_argument() -> None:
    batch = make_batch("candidates")
    with pytest.raises(fastdml.InputError, match="swap must be False"):
        triplet_losses(*batch, closeness=Closeness(), swap=True)
    with pytest.raises(fastdml.InputError, match="mined must name one of all, hard, semihard, easy"):
        triplet_losses(*batch, closeness=Closeness(), mined=("soft", 0.1))
    with fastdml.use_backend("cpu"), pytest.raises(fastdml.BackendError, match="plain PyTorch"):
        triplet_losses(*batch, closeness=Closeness(), smooth=True)


MEASURE = """
import json, torch
from bench.workload import Workload
from fastdml.engines.positives import positive_pairs
from fastdml.engines.sides import compared_sides
from fastdml.engines.triplets import triplet_losses
from fastdml.resident_memory import high_water, release_freed_memory, reset_high_water
from fastdml.rules import Closeness

def step(count):
    embeddings, labels = Workload(count, 128).make()
    release_freed_memory()
    before = reset_high_water()
    losses = triplet_losses(embeddings, labels, closeness=Closeness("euclidean"), low=0)
    (losses.total.sum() / losses.count.sum()).backward()
    return high_water() - before - embeddings.grad.nbytes

step(64)
print(json.dumps(step(8192)))
"""


@pytest.mark.skipif(not can_measure(), reason="this system does not tell a process its peak of memory")
def test_memory_at_8192_samples_is_under_100_mb(backend: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", f"import fastdml; fastdml.use_backend({backend!r})\n{MEASURE}"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=500,
    )  # fmt: skip
    assert json.loads(child.stdout.splitlines()[-1]) < 100e6
