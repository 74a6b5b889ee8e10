"""The CUDA operators of the threshold statistics against plain PyTorch in float64.

Every test that does not need a device runs twice: on the GPU, where there is one, and with the same kernels
emulated on the host.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from captured import assert_replays
from torch import Tensor

import fastdml
from fastdml.engines import threshold_blocked  # noqa: F401  defines its operators
from fastdml.engines.sides import Sides, compared_sides
from fastdml.engines.threshold_ops import operator
from fastdml.engines.thresholds import threshold_sums
from fastdml.rules import Closeness
from pair_batches import BATCHES, Batch, assert_as_accurate, make_batch

CLOSENESS = {
    "cosine": Closeness(),
    "euclidean": Closeness("euclidean"),
    "squared": Closeness("squared"),
    "dot product": Closeness("inner", normalised=False),
    "euclidean of any length": Closeness("euclidean", normalised=False),
    "squared of any length": Closeness("squared", normalised=False),
}
OFTEN = ("random", "candidates")

pytestmark = pytest.mark.usefixtures("poisoned_memory")

every_closeness = pytest.mark.parametrize("closeness", CLOSENESS.values(), ids=CLOSENESS)


def sides_of(batch: Batch, closeness: Closeness, device: str) -> Sides:
    """The sides of a batch; with candidates, some anchors are candidates too, of whatever label."""
    own = None
    if batch.ref_labels is not None:
        own = torch.arange(len(batch.labels)) % (len(batch.ref_labels) + 1) - 1
        own = own.to(device)
    placed = (None if tensor is None else tensor.to(device) for tensor in batch)
    return compared_sides(closeness, *placed, own=own)


def in_double(sides: Sides) -> Sides:
    """The same numbers, in float64."""
    floats = ("rows", "squares", "refs", "ref_squares")
    given = sides._asdict()
    return sides._replace(**{name: given[name].double() for name in floats if given[name] is not None})


def thresholds_of(sides: Sides, most: int) -> tuple[Tensor, Tensor]:
    """Up to ``most`` thresholds an anchor and their offsets; one in five anchors has none.

    Each stands in the middle of a gap of its anchor's closeness, so that rounding carries nothing across it.
    """
    generator = torch.Generator().manual_seed(most)
    c = in_double(sides).closeness_of(slice(0, len(sides.rows))).cpu()
    scale = max(1.0, c.abs().max().item())
    lengths = torch.randint(1, most + 1, (len(c),), generator=generator)
    lengths[::5] = 0
    thresholds = [torch.empty(0, dtype=torch.float64)]
    for row, length in zip(c, lengths.tolist(), strict=True):
        bounds = torch.cat([row.amin()[None] - scale, row.sort().values, row.amax()[None] + scale])
        wide = bounds.diff() > 2e-3 * scale
        middles = (bounds[:-1] + bounds.diff() / 2)[wide]
        thresholds.append(middles[torch.randint(len(middles), (length,), generator=generator)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    device = sides.rows.device
    return torch.cat(thresholds).to(sides.rows.dtype).to(device), offsets.to(device)


def arguments(sides: Sides, thresholds: Tensor, offsets: Tensor) -> tuple[Any, ...]:
    """What both operators are given."""
    return (
        sides.rows, sides.squares, sides.labels, sides.refs, sides.ref_squares, sides.ref_labels, sides.own,
        thresholds, offsets, sides.closeness.code,
    )  # fmt: skip


def upstream_of(thresholds: Tensor) -> Tensor:
    return torch.linspace(-0.5, 1.5, len(thresholds), dtype=torch.float64, device=thresholds.device)


def results(backend: str, sides: Sides, thresholds: Tensor, offsets: Tensor) -> list[Tensor]:
    """Counts, sums, and the gradients of unevenly weighted sums in anchors and candidates."""
    given = arguments(sides, thresholds, offsets)
    counts, sums = operator("forward", backend)(*given)
    assert counts.dtype == sums.dtype == torch.float64
    gradients = operator("backward", backend)(upstream_of(thresholds), *given, True, True)
    return [counts, sums, *gradients]


def assert_equal_to_plain_blocks(sides: Sides, thresholds: Tensor, offsets: Tensor) -> None:
    found = results("cuda", sides, thresholds, offsets)
    wanted = results("blocked", sides, thresholds, offsets)
    assert torch.equal(found[0], wanted[0])
    for results_of in (found, wanted):  # beyond a threshold of -inf, sums mean nothing
        results_of[1] = results_of[1].masked_fill(thresholds == -math.inf, 0)
    for value, exact in zip(found[1:], wanted[1:], strict=True):
        scale = exact.abs().max().item() if exact.numel() else 0.0
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-12 * scale)


@every_closeness
@pytest.mark.parametrize("name", BATCHES)
def test_equals_plain_blocks(closeness: Closeness, name: str, device: str) -> None:
    sides = sides_of(make_batch(name), closeness, device)
    assert_equal_to_plain_blocks(sides, *thresholds_of(sides, 11))


@every_closeness
@pytest.mark.parametrize("name", BATCHES)
def test_is_as_accurate_as_pytorch_in_float32(closeness: Closeness, name: str, device: str) -> None:
    sides = sides_of(make_batch(name).to(torch.float32), closeness, device)
    thresholds, offsets = thresholds_of(sides, 5)
    found = results("cuda", sides, thresholds, offsets)
    plain = results("blocked", sides, thresholds, offsets)
    truth = results("blocked", in_double(sides), thresholds.double(), offsets)
    assert torch.equal(found[0], truth[0])
    assert found[2].dtype == found[3].dtype == torch.float32
    names = ("sums", "anchors", "candidates")
    for value, same_dtype, exact, what in zip(found[1:], plain[1:], truth[1:], names, strict=True):
        assert_as_accurate(value, same_dtype, exact, what)


@pytest.mark.parametrize("name", OFTEN)
def test_hundreds_of_thresholds_of_an_anchor(name: str, device: str) -> None:
    sides = sides_of(make_batch(name), Closeness("euclidean"), device)
    assert_equal_to_plain_blocks(sides, *thresholds_of(sides, 600))


@every_closeness
@pytest.mark.parametrize("name", OFTEN)
def test_infinite_thresholds(closeness: Closeness, name: str, device: str) -> None:
    sides = sides_of(make_batch(name), closeness, device)
    thresholds, offsets = thresholds_of(sides, 9)
    thresholds[::3] = math.inf
    thresholds[1::5] = -math.inf
    assert_equal_to_plain_blocks(sides, thresholds, offsets)
    counts, sums, *_ = results("cuda", sides, thresholds, offsets)
    anchors = torch.repeat_interleave(offsets.diff())
    assert torch.equal(counts[1::5], sides.negative_counts()[anchors][1::5].double())
    high = thresholds == math.inf
    assert high.any()
    assert not counts[high].any()
    assert not sums[high].any()


def test_what_equals_a_threshold_does_not_lie_beyond_it(device: str) -> None:
    rows, labels = torch.eye(4, device=device).repeat(2, 1), torch.arange(8, device=device)
    # each row has one negative of closeness 1 and six of closeness 0
    thresholds = torch.tensor([1.0, -1.0, 0.0, -torch.inf, 0.5, torch.inf], device=device).repeat(8)
    given = arguments(compared_sides(Closeness(), rows, labels), thresholds, torch.arange(9).to(device) * 6)
    counts, sums = operator("forward", "cuda")(*given)
    assert counts.reshape(8, 6).unique(dim=0).tolist() == [[0, 7, 1, 7, 1, 0]]
    assert sums.reshape(8, 6)[:, [0, 1, 2, 4, 5]].unique(dim=0).tolist() == [[0, 8, 1, 0.5, 0]]


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 32, 33])
def test_every_remainder_of_a_block(rows: int, device: str) -> None:
    torch.manual_seed(rows)
    embeddings, labels = torch.randn(rows, 6, dtype=torch.float64) + 0.4, torch.randint(4, (rows,))
    ref, ref_labels = torch.randn(190, 6, dtype=torch.float64), torch.randint(4, (190,))
    for batch in (Batch(embeddings, labels), Batch(embeddings, labels, ref, ref_labels)):
        sides = sides_of(batch, Closeness("squared", normalised=False), device)
        assert_equal_to_plain_blocks(sides, *thresholds_of(sides, 9))


@pytest.mark.parametrize("candidates", [1023, 1025, 16_384, 17_001])
def test_more_candidates_than_threads_take_at_once(candidates: int, device: str) -> None:
    torch.manual_seed(candidates)
    anchors, ref = torch.randn(3, 3, dtype=torch.float64), torch.randn(candidates, 3, dtype=torch.float64)
    batch = Batch(anchors, torch.arange(3), ref, torch.randint(9, (candidates,)))
    sides = sides_of(batch, Closeness("squared", normalised=False), device)
    thresholds = torch.tensor([-30.0, 1.0], dtype=torch.float64, device=device).repeat(3)
    offsets = torch.arange(4, device=device) * 2
    assert_equal_to_plain_blocks(sides, thresholds, offsets)
    # in float32 too
    single = sides_of(batch.to(torch.float32), sides.closeness, device)
    sums = operator("forward", "cuda")(*arguments(single, thresholds.float(), offsets))[1]
    exact = operator("forward", "blocked")(*arguments(sides, thresholds, offsets))[1]
    assert exact.amax() > 15 * candidates
    torch.testing.assert_close(sums, exact, rtol=1e-6, atol=0)


@every_closeness
def test_no_thresholds_give_no_gradients(closeness: Closeness, device: str) -> None:
    for name in OFTEN:
        sides = sides_of(make_batch(name), closeness, device)
        nothing = sides.rows.new_empty(0)
        offsets = torch.zeros(len(sides.rows) + 1, dtype=torch.int64, device=device)
        counts, sums, of_rows, of_refs = results("cuda", sides, nothing, offsets)
        assert counts.shape == sums.shape == (0,)
        assert torch.equal(of_rows, torch.zeros_like(sides.rows))
        assert len(of_refs) == (0 if sides.refs is None else len(sides.refs))
        assert not of_refs.any()


def test_no_candidates_lie_beyond_nothing(device: str) -> None:
    batch = make_batch("candidates")
    assert batch.ref_embeddings is not None
    assert batch.ref_labels is not None
    empty = Batch(batch.embeddings, batch.labels, batch.ref_embeddings[:0], batch.ref_labels[:0])
    sides = sides_of(empty, Closeness(), device)
    thresholds = torch.zeros(120, dtype=torch.float64, device=device)
    counts, sums, of_rows, of_refs = results("cuda", sides, thresholds, torch.arange(61, device=device) * 2)
    assert torch.equal(counts, torch.zeros_like(counts))
    assert torch.equal(sums, torch.zeros_like(sums))
    assert torch.equal(of_rows, torch.zeros_like(sides.rows))
    assert of_refs.shape == (0, 16)


@pytest.mark.parametrize("closeness", ["cosine", "euclidean of any length"])
@pytest.mark.parametrize("name", OFTEN)
def test_gradients_that_nobody_needs_are_not_made(closeness: str, name: str, device: str) -> None:
    sides = sides_of(make_batch(name), CLOSENESS[closeness], device)
    thresholds, offsets = thresholds_of(sides, 5)
    given = (upstream_of(thresholds), *arguments(sides, thresholds, offsets))
    backward, width = operator("backward", "cuda"), sides.rows.shape[1]
    both = backward(*given, True, True)
    anchors, candidates = backward(*given, True, False), backward(*given, False, True)
    assert both[0].any()
    assert torch.equal(anchors[0], both[0])
    assert torch.equal(candidates[1], both[1])
    assert anchors[1].shape == candidates[0].shape == (0, width)
    assert len(both[1]) == (0 if sides.refs is None else len(sides.refs))
    for gradient in backward(*given, False, False):
        assert gradient.shape == (0, width)


@every_closeness
def test_two_runs_are_bitwise_equal(
    closeness: Closeness, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated, the second run takes blocks and threads in the opposite order."""
    for name in OFTEN:
        sides = sides_of(make_batch(name).to(torch.float32), closeness, device)
        thresholds, offsets = thresholds_of(sides, 11)
        monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "0")
        first = results("cuda", sides, thresholds, offsets)
        monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "1")
        second = results("cuda", sides, thresholds, offsets)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_strided_tensors(device: str) -> None:
    sides = sides_of(make_batch("candidates"), Closeness("squared", normalised=False), device)
    thresholds, offsets = thresholds_of(sides, 5)
    given = (upstream_of(thresholds), *arguments(sides, thresholds, offsets))

    def spread(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        apart = value.repeat_interleave(2, dim=0)[::2]
        assert not apart.is_contiguous()
        return apart

    strided = tuple(map(spread, given))
    pairs = [
        (operator("forward", "cuda")(*some[1:]), operator("backward", "cuda")(*some, True, True))
        for some in (given, strided)
    ]
    for packed, found in zip(*pairs, strict=True):
        for a, b in zip(packed, found, strict=True):
            assert a.any()
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", [*OFTEN, "one sample"])
def test_operators_keep_torch_s_contract(name: str, device: str) -> None:
    sides = sides_of(make_batch(name).to(torch.float32), Closeness("euclidean"), device)
    thresholds, offsets = thresholds_of(sides, 5)
    given = arguments(sides, thresholds, offsets)
    torch.library.opcheck(operator("forward", "cuda"), given)
    for needs in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(operator("backward", "cuda"), (upstream_of(thresholds), *given, *needs))


def test_says_what_it_does_not_take(device: str) -> None:
    sides = sides_of(make_batch("random").to(torch.float32), Closeness(), device)
    given = arguments(sides, *thresholds_of(sides, 5))
    with pytest.raises(RuntimeError, match="closeness must be 0, 1, 2, 4, 5 or 6, got 3"):
        operator("forward", "cuda")(*given[:-1], 3)
    with pytest.raises(RuntimeError, match="rows must be float32 or float64"):
        operator("forward", "cuda")(given[0].half(), *given[1:])


@pytest.mark.parametrize("name", OFTEN)
@every_closeness
def test_embeddings_to_gradients_equal_the_reference(closeness: Closeness, name: str, device: str) -> None:
    sides = sides_of(make_batch(name), closeness, device)
    thresholds, offsets = thresholds_of(sides, 5)
    found = []
    for backend in ("cuda", "reference"):
        batch = make_batch(name)
        leaves = [batch.embeddings.to(device).requires_grad_(), thresholds.clone().requires_grad_()]
        if batch.ref_embeddings is not None:
            leaves.append(batch.ref_embeddings.to(device).requires_grad_())
        with fastdml.use_backend(backend):
            counts, sums = threshold_sums(
                closeness, leaves[0], sides.labels, leaves[2] if len(leaves) > 2 else None, sides.ref_labels,
                sides.own, leaves[1], offsets,
            )  # fmt: skip
        found.append([counts, sums, *torch.autograd.grad(sums, leaves, upstream_of(thresholds))])
    for value, exact in zip(*found, strict=True):
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-11 * exact.abs().max().item())


def test_nan_in_nan_out(device: str) -> None:
    batch = make_batch("random").to(torch.float32)
    batch.embeddings[5, 3] = torch.nan
    embeddings = batch.embeddings.to(device).requires_grad_()
    thresholds = torch.zeros(200, device=device)
    with fastdml.use_backend("cuda"):
        _, sums = threshold_sums(
            Closeness("euclidean"), embeddings, batch.labels.to(device), None, None, None, thresholds,
            torch.arange(101, device=device) * 2,
        )  # fmt: skip
    assert sums.isnan().all()
    assert torch.autograd.grad(sums.sum(), embeddings)[0].isnan().all()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("closeness", ["cosine", "euclidean of any length"])
def test_blocks_of_their_real_size(closeness: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embeddings, ref = torch.randn(2500, 64) + 0.2, torch.randn(4500, 64) + 0.2
    labels, ref_labels = torch.randint(300, (2500,)), torch.randint(300, (4500,))
    for batch in (Batch(embeddings, labels), Batch(embeddings, labels, ref, ref_labels)):
        sides = sides_of(batch.to(dtype), CLOSENESS[closeness], "cuda")
        thresholds, offsets = thresholds_of(sides, 20)
        found = results("cuda", sides, thresholds, offsets)
        plain = results("blocked", sides, thresholds, offsets)
        truth = results("blocked", in_double(sides), thresholds.double(), offsets)
        assert torch.equal(found[0], truth[0])
        for at, (value, same_dtype, exact) in enumerate(zip(found, plain, truth, strict=True)):
            assert_as_accurate(value, same_dtype, exact, f"result {at}")


@pytest.mark.usefixtures("gpu")
def test_a_captured_graph_repeats_the_step() -> None:
    """Which it could not if the host read the offsets."""
    generator = torch.Generator().manual_seed(1)
    embeddings, labels = torch.empty(2500, 64, device="cuda"), torch.arange(2500, device="cuda") % 300
    thresholds, offsets = torch.empty(7500, device="cuda"), torch.empty(2501, device="cuda").long()

    def fill() -> None:
        embeddings.copy_(torch.randn(2500, 64, generator=generator))
        thresholds.copy_(torch.rand(7500, generator=generator) - 0.5)
        offsets[1:-1] = torch.randint(7501, (2499,), generator=generator).sort().values.cuda()
        offsets[0], offsets[-1] = 0, 7500

    def step() -> list[Tensor]:
        return results(
            "cuda", compared_sides(Closeness("euclidean"), embeddings, labels), thresholds - 1, offsets
        )

    assert_replays(fill, step, 1e-5)
