"""The CUDA operators of the pair engine against the dense reference in float64.

Every test that does not need a device runs twice: on the GPU, where there is one, and with the same kernels
emulated on the host.
"""

from __future__ import annotations

from functools import cache

import emulated
import pytest
import torch
from torch import Tensor

import fastdml
from fastdml.backends import extension, native
from fastdml.engines.pair import _PairLosses, pair_losses
from fastdml.rules import MultiSimilarity
from pair_batches import Batch, assert_as_accurate, make_batch

RULES = {
    "unmined": MultiSimilarity(),
    "mined": MultiSimilarity(epsilon=0.1),
    "tightly mined": MultiSimilarity(epsilon=-0.2),
    "official": MultiSimilarity(beta=40, epsilon=0.1, duplicate=1 - 1e-5),
    "shifted exponents": MultiSimilarity(beta=130, alpha=60, base=0, epsilon=0.1),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WHAT = ("losses", "gradient", "gradient of the candidates")

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@cache
def reason_against(device: str) -> str | None:
    """Why the operators cannot run on a device; None where they are loaded."""
    if device == "cuda":
        return native.reason("cuda")
    try:
        emulated.load()
    except extension.BuildError as error:
        if "not found" in str(error):
            return str(error)
        raise
    return None


@pytest.fixture(params=["cuda", "cpu"], ids=["gpu", "emulated"])
def device(request: pytest.FixtureRequest) -> str:
    """Where the tensors of a test live."""
    why = reason_against(request.param)
    if why is not None:
        pytest.skip(why)
    return request.param


@pytest.fixture
def gpu() -> None:
    """Skips the test where there is no GPU."""
    why = reason_against("cuda")
    if why is not None:
        pytest.skip(why)


def place(batch: Batch, device: str) -> Batch:
    return Batch(*(None if tensor is None else tensor.to(device) for tensor in batch))


def losses_and_gradients(
    rule: MultiSimilarity, batch: Batch, upstream: Tensor, backend: str = "cuda"
) -> list[Tensor]:
    """The losses and the gradients of their sum weighted by `upstream`."""
    leaves = [batch.embeddings.detach().clone().requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.detach().clone().requires_grad_())
    if backend == "cuda":
        ref = leaves[1] if len(leaves) > 1 else None
        losses = _PairLosses.apply(
            leaves[0], ref, batch.labels, batch.ref_labels, "cuda", rule.name, rule.constants()
        )
    else:
        with fastdml.use_backend(backend):
            losses = pair_losses(rule, leaves[0], batch.labels, *leaves[1:], ref_labels=batch.ref_labels)
    gradients = torch.autograd.grad((losses * upstream.to(losses)).sum(), leaves)
    return [losses.detach(), *gradients]


def assert_equals_the_reference(
    rule: MultiSimilarity, batch: Batch, upstream: Tensor, dtype: torch.dtype
) -> None:
    batch = batch.to(dtype)
    found = losses_and_gradients(rule, batch, upstream)
    same_dtype = losses_and_gradients(rule, batch, upstream, "reference")
    truth = losses_and_gradients(rule, batch.to(torch.float64), upstream, "reference")
    for value, plain, exact, what in zip(found, same_dtype, truth, WHAT, strict=False):
        assert_as_accurate(value, plain, exact, what)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_equals_the_reference(rule: MultiSimilarity, batch: Batch, dtype: torch.dtype, device: str) -> None:
    if device == "cpu" and len(batch.labels) > 200 and rule is not RULES["mined"]:
        pytest.skip("slow when emulated")
    if dtype == torch.float16 and not batch.embeddings.any(dim=1).all():
        pytest.skip("in fp16 torch.nn.functional.normalize makes NaN of a zero vector")
    upstream = torch.rand(len(batch.labels), dtype=torch.float64)
    assert_equals_the_reference(rule, place(batch, device), upstream, dtype)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_zero_vectors_in_half(rule: MultiSimilarity, device: str) -> None:
    batch = place(make_batch("zero vectors").to(torch.float16), device)
    rows = batch.embeddings.any(dim=1)  # the gradient of a zero vector leaves the range of fp16
    upstream = torch.rand(40, dtype=torch.float64)
    losses, gradient = losses_and_gradients(rule, batch, upstream)
    truth, wanted = losses_and_gradients(rule, batch.to(torch.float64), upstream, "reference")
    torch.testing.assert_close(losses.double(), truth, rtol=1e-5, atol=1e-5)
    scale = wanted[rows].abs().max().item()
    torch.testing.assert_close(gradient[rows].double(), wanted[rows], rtol=0, atol=2e-3 * scale)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 31, 32, 72, 256, 264])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width_of_a_row(width: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(width)
    batch = Batch(torch.randn(37, width, dtype=torch.float64) + 0.4, torch.randint(6, (37,)))
    assert_equals_the_reference(RULES["mined"], place(batch, device), torch.rand(37), dtype)


@pytest.mark.parametrize("rows", [95, 96, 97, 160, 192, 255, 256, 257, 352])
def test_every_remainder_of_a_block(rows: int, device: str) -> None:
    torch.manual_seed(rows)
    embeddings, labels = torch.randn(rows, 6, dtype=torch.float64) + 0.4, torch.randint(rows // 4, (rows,))
    upstream = torch.rand(rows, dtype=torch.float64)
    batches = [Batch(embeddings, labels), Batch(embeddings, labels, embeddings[:-7] + 0.1, labels[:-7])]
    for batch in batches:
        assert_equals_the_reference(RULES["mined"], place(batch, device), upstream, torch.float64)


@pytest.mark.parametrize("size", [2.0**-30, 2.0**12])
def test_half_gradients_of_any_size(size: float, device: str) -> None:
    """Weights are kept in fp16: neither a mean over the batch nor a loss scale may take them out of it."""
    batch = place(make_batch("random").to(torch.float16), device)
    upstream = torch.rand(100, dtype=torch.float64) + 0.1
    wanted = losses_and_gradients(RULES["mined"], batch, upstream)[1].double()
    rule = RULES["mined"].name, RULES["mined"].constants()
    losses, units, norms, *rest = torch.ops.fastdml.pair_forward_cuda(*batch, *rule, True)
    # What the output, in fp16, could not show of such gradients is undone by norms that are as much smaller
    # or larger; powers of two change nothing else.
    found = torch.ops.fastdml.pair_backward_cuda(
        (upstream * size).to(losses), units, norms * size, *rest, *rule, True, False
    )[0]
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=2e-3 * wanted.abs().max().item())


def test_upstream_gradients_of_zero(device: str) -> None:
    for dtype in DTYPES:
        batch = place(make_batch("random").to(dtype), device)
        gradient = losses_and_gradients(RULES["mined"], batch, torch.zeros(100))[1]
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_two_runs_are_bitwise_equal(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated, the second run takes blocks and threads in the opposite order."""
    for name in ("random", "candidates"):
        for dtype in (torch.float32, torch.float16):
            batch = place(make_batch(name).to(dtype), device)
            upstream = torch.rand(len(batch.labels))
            monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "0")
            first = losses_and_gradients(RULES["mined"], batch, upstream)
            monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "1")
            second = losses_and_gradients(RULES["mined"], batch, upstream)
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nan_in_nan_out(rule: MultiSimilarity, device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for bad in (torch.nan, torch.inf):
            batch = place(make_batch("random").to(dtype), device)
            batch.embeddings[5, 3] = bad
            losses, gradient = losses_and_gradients(rule, batch, torch.ones(100))
            assert losses.isnan().all()
            assert gradient.isnan().all()


def test_a_nan_anchor_spoils_its_own_row_only(device: str) -> None:
    batch = place(make_batch("candidates").to(torch.float32), device)
    batch.embeddings[5, 3] = torch.nan
    losses = losses_and_gradients(RULES["mined"], batch, torch.ones(60))[0]
    assert losses.isnan().nonzero().tolist() == [[5]]


def test_strided_embeddings_and_labels(device: str) -> None:
    torch.manual_seed(0)
    wide = torch.randn(40, 2 * 60)
    strided = place(Batch(wide.T[::2], torch.randint(6, (120,))), device)
    strided = Batch(strided.embeddings, strided.labels[::2])
    assert not strided.embeddings.is_contiguous()
    assert not strided.labels.is_contiguous()
    packed = Batch(strided.embeddings.contiguous(), strided.labels.contiguous())
    upstream = torch.rand(60)
    for a, b in zip(
        losses_and_gradients(RULES["mined"], strided, upstream),
        losses_and_gradients(RULES["mined"], packed, upstream),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_candidates_of_another_dtype(device: str) -> None:
    batch = make_batch("candidates")
    assert batch.ref_embeddings is not None
    rounded = batch.ref_embeddings.to(torch.bfloat16)
    mixed = Batch(batch.embeddings.float(), batch.labels, rounded, batch.ref_labels)
    plain = Batch(batch.embeddings.float(), batch.labels, rounded.float(), batch.ref_labels)
    upstream = torch.rand(60)
    found = losses_and_gradients(RULES["mined"], place(mixed, device), upstream)
    wanted = losses_and_gradients(RULES["mined"], place(plain, device), upstream)
    assert found[2].dtype == torch.bfloat16
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[2], wanted[2].to(torch.bfloat16))


@pytest.mark.parametrize("name", ["random", "candidates", "one sample"])
def test_operators_keep_torch_s_contract(name: str, device: str) -> None:
    batch, rule = place(make_batch(name).to(torch.bfloat16), device), RULES["mined"]
    forward = torch.ops.fastdml.pair_forward_cuda.default
    arguments = (*batch, rule.name, rule.constants(), True)
    torch.library.opcheck(forward, arguments)
    losses, *saved = forward(*arguments)
    backward = torch.ops.fastdml.pair_backward_cuda.default
    torch.library.opcheck(
        backward, (torch.ones_like(losses), *saved, rule.name, rule.constants(), True, True)
    )


def test_gradients_that_nobody_needs_are_not_made(device: str) -> None:
    batch, rule = place(make_batch("candidates").to(torch.float32), device), RULES["mined"]
    saved = torch.ops.fastdml.pair_forward_cuda(*batch, rule.name, rule.constants(), True)[1:]
    upstream = torch.ones(60, device=device)
    backward = torch.ops.fastdml.pair_backward_cuda
    both = backward(upstream, *saved, rule.name, rule.constants(), True, True)
    anchors = backward(upstream, *saved, rule.name, rule.constants(), True, False)
    candidates = backward(upstream, *saved, rule.name, rule.constants(), False, True)
    assert torch.equal(anchors[0], both[0])
    assert torch.equal(candidates[1], both[1])
    assert anchors[1].shape == candidates[0].shape == (0, 16)


def test_an_unknown_rule_is_refused(device: str) -> None:
    batch = place(make_batch("random").to(torch.float32), device)
    with pytest.raises(RuntimeError, match="no rule named nothing"):
        torch.ops.fastdml.pair_forward_cuda(*batch, "nothing", [], True)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_their_real_size(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, candidates = 6500, 4500
    embeddings, ref = torch.randn(rows, 128) + 0.2, torch.randn(candidates, 128) + 0.2
    labels, ref_labels = torch.randint(800, (rows,)), torch.randint(800, (candidates,))
    upstream = torch.rand(rows, dtype=torch.float64) / rows
    for batch in (Batch(embeddings, labels), Batch(embeddings, labels, ref, ref_labels)):
        assert_equals_the_reference(RULES["mined"], place(batch, "cuda"), upstream, dtype)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_captured_graph_repeats_the_step(dtype: torch.dtype) -> None:
    rule = RULES["mined"]
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.empty(2500, 64, device="cuda", dtype=dtype)
    labels = torch.empty(2500, device="cuda", dtype=torch.int64)

    def fill() -> None:
        embeddings.copy_(torch.randn(2500, 64, generator=generator) + 0.3)
        labels.copy_(torch.randint(300, (2500,), generator=generator))

    def step() -> list[Tensor]:
        return losses_and_gradients(rule, Batch(embeddings, labels), upstream)

    upstream = torch.rand(2500, device="cuda")
    fill()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        fill()
        graph.replay()
        for found, wanted in zip(captured, step(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.usefixtures("gpu")
def test_memory_beside_rows_and_gradients_is_constant() -> None:
    beside = []
    for rows in (8192, 32768):
        embeddings = torch.randn(rows, 64, device="cuda", dtype=torch.bfloat16)
        batch = Batch(embeddings, torch.arange(rows, device="cuda") // 8)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        losses_and_gradients(RULES["mined"], batch, torch.ones(rows, device="cuda"))
        peak = torch.cuda.max_memory_allocated() - before
        beside.append(peak - rows * 64 * (2 + 2 + 4 + 2 + 2))  # leaf, units, sums, two gradients
    assert beside[1] - beside[0] < (32768 - 8192) * 256
