"""Counts and sums beyond thresholds, on every backend that has them, against the dense form in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdml
from fastdml.backends.reference import pair_closeness
from fastdml.engines.listed_pairs import pair_closeness_of
from fastdml.engines.sides import compared_sides
from fastdml.engines.threshold_ops import operator
from fastdml.engines.thresholds import threshold_sums
from fastdml.rules import Closeness
from pair_batches import Batch, assert_as_accurate, make_batch

CLOSENESS = {
    "cosine": Closeness(),
    "euclidean": Closeness("euclidean"),
    "squared": Closeness("squared"),
    "dot product": Closeness("inner", normalised=False),
    "euclidean of any length": Closeness("euclidean", normalised=False),
    "squared of any length": Closeness("squared", normalised=False),
}
# either side of where the C++ and the PyTorch form turn to looking thresholds up
FEW, MANY = 5, 50

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=["cpu", "blocked"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in fastdml.available_backends():
        pytest.skip(f"no {request.param} backend here")
    return str(request.param)


def thresholds_of(batch: Batch, closeness: Closeness, most: int) -> tuple[Tensor, Tensor]:
    """Up to ``most`` thresholds an anchor among its closeness, and where those of each anchor start."""
    generator = torch.Generator().manual_seed(most)
    c = pair_closeness(closeness, batch.embeddings.double(), None)
    lengths = torch.randint(0, most + 1, (len(batch.labels),), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    noise = torch.randn(int(offsets[-1]), generator=generator, dtype=torch.float64)
    return c.mean() + noise * (c - c.mean()).abs().mean(), offsets


def own_of(batch: Batch) -> Tensor | None:
    """Some anchors are candidates too, of whatever label."""
    if batch.ref_labels is None:
        return None
    return torch.arange(len(batch.labels)) % (len(batch.ref_labels) + 1) - 1


def sums_and_gradients(
    batch: Batch,
    closeness: Closeness,
    thresholds: Tensor,
    offsets: Tensor,
    backend: str,
    bound: Tensor | None = None,
) -> list[Tensor]:
    """Counts, sums, and the gradients of unevenly weighted sums in thresholds, anchors and candidates."""
    leaves = [thresholds.to(batch.embeddings.dtype, copy=True), batch.embeddings.detach().clone()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.detach().clone())
    for leaf in leaves:
        leaf.requires_grad_()
    ref = leaves[2] if len(leaves) > 2 else None
    with fastdml.use_backend(backend):
        counts, sums = threshold_sums(
            closeness,
            leaves[1],
            batch.labels,
            ref,
            batch.ref_labels,
            own_of(batch),
            leaves[0],
            offsets,
            bound,
        )
        upstream = torch.linspace(0.5, 1.5, len(sums), dtype=torch.float64)
        gradients = torch.autograd.grad((sums * upstream).sum(), leaves)
    return [counts, sums.detach(), *gradients]


@pytest.mark.parametrize("most", [FEW, MANY])
@pytest.mark.parametrize("closeness", CLOSENESS.values(), ids=CLOSENESS)
def test_equals_the_dense_form(closeness: Closeness, most: int, batch: Batch, backend: str) -> None:
    thresholds, offsets = thresholds_of(batch, closeness, most)
    found = sums_and_gradients(batch, closeness, thresholds, offsets, backend)
    truth = sums_and_gradients(batch, closeness, thresholds, offsets, "reference")
    assert torch.equal(found[0], truth[0])
    assert len(found) == len(truth)
    for value, exact in zip(found, truth, strict=True):
        scale = exact.abs().max().item() if exact.numel() else 0
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-10 * scale + 1e-12)


@pytest.mark.parametrize("closeness", list(CLOSENESS.values())[:4], ids=list(CLOSENESS)[:4])
def test_is_as_accurate_as_pytorch_in_float32(closeness: Closeness, batch: Batch, backend: str) -> None:
    single = batch.to(torch.float32)
    thresholds, offsets = thresholds_of(batch, closeness, FEW)
    thresholds = thresholds.float()
    found = sums_and_gradients(single, closeness, thresholds, offsets, backend)
    plain = sums_and_gradients(single, closeness, thresholds, offsets, "reference")
    truth = sums_and_gradients(single.to(torch.float64), closeness, thresholds, offsets, "reference")
    # a count is off where a closeness rounds across its threshold: then so is plain PyTorch's, elsewhere
    assert (found[0] - truth[0]).abs().sum() <= 2 * (plain[0] - truth[0]).abs().sum() + 2
    for value, same_dtype, exact, what in zip(
        found[1:], plain[1:], truth[1:], ("sums", "thresholds", "anchors", "candidates"), strict=False
    ):
        if what != "thresholds":
            assert_as_accurate(value, same_dtype, exact, what)


@pytest.mark.parametrize("name", ["random", "candidates"])
def test_negatives_below_a_bound_are_left_out(name: str, backend: str) -> None:
    batch, closeness = make_batch(name), Closeness("euclidean")
    thresholds, offsets = thresholds_of(batch, closeness, FEW)
    bound = thresholds.mean() + torch.linspace(-0.2, 0.2, len(batch.labels), dtype=torch.float64)
    found = sums_and_gradients(batch, closeness, thresholds, offsets, backend, bound)
    c = pair_closeness(closeness, batch.embeddings, batch.ref_embeddings)
    sides = compared_sides(closeness, *batch[:4], own=own_of(batch))
    kept = sides.negatives_of(slice(0, len(c))) & (c > bound[:, None])
    anchors = torch.repeat_interleave(offsets.diff())
    beyond = kept[anchors] & (c[anchors] > thresholds[:, None])
    assert torch.equal(found[0], beyond.sum(dim=1).double())
    expected = torch.where(beyond, c[anchors] - thresholds[:, None], 0).sum(dim=1)
    torch.testing.assert_close(found[1], expected, rtol=1e-10, atol=1e-12)
    everything = sums_and_gradients(batch, closeness, thresholds, offsets, backend)
    assert (everything[0] > found[0]).any()


def test_what_equals_a_threshold_does_not_lie_beyond_it(backend: str) -> None:
    embeddings, labels = torch.eye(4).repeat(2, 1), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])
    # each row has one negative of closeness 1 and six of closeness 0
    thresholds = torch.tensor([1.0, -1.0, 0.0, -torch.inf, 0.5, torch.inf]).repeat(8)
    with fastdml.use_backend(backend):
        counts, sums = threshold_sums(
            Closeness(), embeddings, labels, None, None, None, thresholds, torch.arange(9) * 6
        )
    assert counts.reshape(8, 6)[0].tolist() == [0, 7, 1, 7, 1, 0]
    assert counts.reshape(8, 6).unique(dim=0).shape[0] == 1
    assert sums.reshape(8, 6)[:, [0, 1, 2, 4, 5]].unique(dim=0).tolist() == [[0, 8, 1, 0.5, 0]]


@pytest.mark.parametrize("closeness", CLOSENESS.values(), ids=CLOSENESS)
@pytest.mark.parametrize("own_candidates", [False, True], ids=["within", "candidates"])
def test_gradients_are_those_of_finite_differences(
    closeness: Closeness, own_candidates: bool, backend: str
) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(7, 5, dtype=torch.float64, requires_grad=True) if own_candidates else None
    labels, ref_labels = torch.arange(9) % 3, torch.arange(7) % 3 if own_candidates else None
    c = pair_closeness(closeness, embeddings.detach(), ref)
    thresholds = c.mean(dim=1).repeat_interleave(2).detach() + torch.tensor([0.011, -0.107]).repeat(9)
    thresholds.requires_grad_()

    def sums(thresholds: Tensor, embeddings: Tensor, ref: Tensor | None = None) -> Tensor:
        offsets = torch.arange(10) * 2
        return threshold_sums(closeness, embeddings, labels, ref, ref_labels, None, thresholds, offsets)[1]

    leaves = (thresholds, embeddings) if ref is None else (thresholds, embeddings, ref)
    with fastdml.use_backend(backend):
        assert torch.autograd.gradcheck(sums, leaves)


def test_half_precision_is_computed_in_single(backend: str) -> None:
    batch = make_batch("random").to(torch.bfloat16)
    thresholds, offsets = thresholds_of(batch, Closeness(), FEW)
    found = sums_and_gradients(batch, Closeness(), thresholds.bfloat16(), offsets, backend)
    single = sums_and_gradients(batch.to(torch.float32), Closeness(), thresholds.bfloat16(), offsets, backend)
    assert torch.equal(found[0], single[0])
    assert torch.equal(found[1], single[1])
    assert found[3].dtype == torch.bfloat16
    assert torch.equal(found[3], single[3].bfloat16())


@pytest.mark.parametrize("most", [FEW, MANY])
def test_two_runs_are_bitwise_equal(most: int, backend: str) -> None:
    batch = make_batch("several blocks").to(torch.float32)
    arguments = (batch, Closeness("euclidean"), *thresholds_of(batch, Closeness("euclidean"), most), backend)
    for first, second in zip(sums_and_gradients(*arguments), sums_and_gradients(*arguments), strict=True):
        assert torch.equal(first, second)


def test_the_number_of_threads_changes_rounding_at_most(backend: str) -> None:
    batch, threads, found = make_batch("several blocks"), torch.get_num_threads(), []
    arguments = (batch, Closeness(), *thresholds_of(batch, Closeness(), FEW), backend)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(sums_and_gradients(*arguments))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-11, atol=1e-12)


def test_nan_in_nan_out(backend: str) -> None:
    batch = make_batch("random").to(torch.float32)
    thresholds, offsets = thresholds_of(batch, Closeness(), FEW)
    batch.embeddings[5, 3] = torch.nan
    _, sums, _, gradient = sums_and_gradients(batch, Closeness(), thresholds, offsets, backend)
    assert sums.isnan().all()
    assert gradient.isnan().all()


def test_a_nan_anchor_spoils_its_own_sums_only(backend: str) -> None:
    batch = make_batch("candidates").to(torch.float32)
    thresholds, offsets = thresholds_of(batch, Closeness(), FEW)
    batch.embeddings[5, 3] = torch.nan
    _, sums, _, _, _ = sums_and_gradients(batch, Closeness(), thresholds, offsets, backend)
    mine = torch.zeros(len(sums), dtype=torch.bool)
    mine[offsets[5] : offsets[6]] = True
    assert mine.any()
    assert torch.equal(sums.isnan(), mine)


def test_strided_rows(backend: str) -> None:
    torch.manual_seed(0)
    wide = torch.randn(40, 2 * 60)
    strided = Batch(wide.T[::2], torch.randint(6, (120,))[::2])
    packed = Batch(strided.embeddings.contiguous(), strided.labels.contiguous())
    closeness = Closeness("inner", normalised=False)
    thresholds, offsets = thresholds_of(packed, closeness, FEW)
    for a, b in zip(
        sums_and_gradients(strided, closeness, thresholds, offsets, backend),
        sums_and_gradients(packed, closeness, thresholds, offsets, backend),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["random", "candidates", "one sample"])
def test_operators_keep_torch_s_contract(name: str, backend: str) -> None:
    batch = make_batch(name).to(torch.float32)
    sides = compared_sides(Closeness("euclidean"), *batch[:4], own=own_of(batch))
    thresholds, offsets = thresholds_of(batch, sides.closeness, FEW)
    given = (
        sides.rows, sides.squares, sides.labels, sides.refs, sides.ref_squares, sides.ref_labels, sides.own,
        thresholds.float(), offsets, sides.closeness.code,
    )  # fmt: skip
    torch.library.opcheck(operator("forward", backend), given)
    upstream = torch.rand(len(thresholds), dtype=torch.float64)
    for needs in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(operator("backward", backend), (upstream, *given, *needs))


@pytest.mark.parametrize("closeness", CLOSENESS.values(), ids=CLOSENESS)
def test_listed_pairs_have_the_closeness_of_the_matrix(closeness: Closeness, batch: Batch) -> None:
    generator = torch.Generator().manual_seed(0)
    refs = batch.embeddings if batch.ref_embeddings is None else batch.ref_embeddings
    anchors = torch.randint(len(batch.labels), (400,), generator=generator)
    others = torch.randint(len(refs), (400,), generator=generator)
    # at a distance of 0 the slope depends on how it rounds
    apart = (batch.embeddings[anchors] - refs[others]).abs().sum(dim=1) > 0
    anchors, others = anchors[apart], others[apart]
    upstream = torch.rand(len(anchors), generator=generator, dtype=torch.float64)
    leaves = [batch.embeddings.clone().requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.clone().requires_grad_())
    found = pair_closeness_of(closeness, leaves[0], leaves[1] if len(leaves) > 1 else None, anchors, others)
    truth = pair_closeness(closeness, leaves[0], leaves[1] if len(leaves) > 1 else None)[anchors, others]
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-7)
    if closeness.kind == "euclidean":
        upstream = upstream * (truth.detach() < -1e-3)
    gradients = torch.autograd.grad(found, leaves, upstream)
    for value, exact in zip(gradients, torch.autograd.grad(truth, leaves, upstream), strict=True):
        scale = exact.abs().max().item() if exact.numel() else 0
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-9 * scale + 1e-12)


def test_listed_pairs_keep_no_gathered_rows() -> None:
    saved = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved = max(saved, tensor.numel())
        return tensor

    embeddings = torch.randn(50, 64, requires_grad=True)
    index = torch.randint(50, (2, 10_000))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pair_closeness_of(Closeness(), embeddings, None, *index)
    assert saved == 10_000
