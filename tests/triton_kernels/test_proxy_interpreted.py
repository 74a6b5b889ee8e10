"""The proxy kernels on the CPU, by Triton's interpreter, against the dense form in float64.

The statistics may be off by twice what the dense form in float32 is. So may the gradients, and beyond it by
what similarities that are made anew, in sums of another order, do to weights: these are exponentials of
``scale`` times a similarity. In 16 bits the measure is the dense form on samples and centres rounded alike.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from proxy_cases import CASES, ProxyCase, make_case, statistics_and_gradients
from torch import Tensor

import fastdml
from fastdml.engines.proxy import proxy_statistics
from fastdml.rules import Centres
from fastdml.triton_kernels import configs
from pair_batches import assert_as_accurate

# numpy warns of what a select drops
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("poisoned_memory"),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of classes, programs that share one, blocks within it, and blocks of samples."""
    monkeypatch.setattr(configs, "PROXY_PACKED", 8_000)
    monkeypatch.setattr(configs, "PROXY_SIMILARITIES", 1_500)
    monkeypatch.setattr(configs, "PROXY_SAMPLES", 24)
    monkeypatch.setattr(configs, "PROXY_STEP", 3)
    monkeypatch.setattr(configs, "class_splits", lambda _tensor, _row_blocks, tiles: min(tiles, 2))


def assert_all_as_accurate(
    case: ProxyCase, found: dict[str, Tensor], plain: dict[str, Tensor], truth: dict[str, Tensor]
) -> None:
    """Fails where a result is less accurate than this file's first lines say."""
    for name, value in found.items():
        finite = truth[name].isfinite()
        # the log of a sum over nothing is -inf, and not NaN
        assert torch.equal(value[~finite].double(), truth[name][~finite]), name
        value, same_dtype, exact = (x[finite].double() for x in (value, plain[name], truth[name]))
        if name.startswith("gradient") and value.numel():
            share = case.scale * torch.finfo(torch.float32).eps
            error, slack = (value - exact).abs(), share * exact.abs().max()
            value = exact + (error - slack).clamp_min(0)
        assert_as_accurate(value, same_dtype, exact, name)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_form(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = make_case(name).to(torch.float32)
    if name == "many classes":
        # not as many chunks, which take long
        monkeypatch.setattr(configs, "PROXY_PACKED", 30_000)
        monkeypatch.setattr(configs, "PROXY_SIMILARITIES", 9_000)
    found = statistics_and_gradients(case, "triton")
    plain = statistics_and_gradients(case, "reference")
    truth = statistics_and_gradients(case.to(torch.float64), "reference")
    assert all(value.dtype == torch.float32 for value in found.values())
    assert_all_as_accurate(case, found, plain, truth)


def test_centres_too_short_to_be_normalised() -> None:
    case = make_case("soft, centres as rows").to(torch.float32)
    case.centres[[1, 3]] *= 1e-13
    found = statistics_and_gradients(case, "triton")
    plain = statistics_and_gradients(case, "reference")
    truth = statistics_and_gradients(case.to(torch.float64), "reference")
    assert_all_as_accurate(case, found, plain, truth)


class _Rounded(torch.autograd.Function):
    """Rounds to a dtype; gradients pass as they are."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def rounded_before_products(case: ProxyCase, product: torch.dtype) -> dict[str, Tensor]:
    """What the dense form makes of samples and of centres of length one, both rounded to ``product``."""
    rows, centres = (values.clone().requires_grad_() for values in (case.rows, case.centres))
    stored = centres.T if case.how.columns else centres
    stored = F.normalize(stored, dim=1) if case.how.normalised else stored
    how = case.how._replace(columns=False, normalised=False)
    rounded = case._replace(
        rows=_Rounded.apply(rows, product), centres=_Rounded.apply(stored, product), how=how, spread=False
    )
    found = statistics_and_gradients(rounded, "reference")
    pair = [found.pop("gradient of rows"), found.pop("gradient of centres")]
    gradients = torch.autograd.grad([rounded.rows, rounded.centres], (rows, centres), pair)
    return found | dict(zip(("gradient of rows", "gradient of centres"), gradients, strict=True))


@pytest.mark.parametrize("name", ["soft", "hard", "one centre a class", "of any length"])
@pytest.mark.parametrize("product", [torch.bfloat16, torch.float16], ids=str)
def test_products_of_16_bits(name: str, product: torch.dtype) -> None:
    case = make_case(name).to(torch.float32)._replace(spread=False)
    found = statistics_and_gradients(case, "triton", product=product)
    plain = rounded_before_products(case, product)
    truth = statistics_and_gradients(case.to(torch.float64), "reference")
    for at, value in found.items():
        assert_as_accurate(value, plain[at], truth[at], at)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["soft", "one centre a class"])
def test_centres_keep_their_dtype(name: str, dtype: torch.dtype) -> None:
    case = make_case(name).to(torch.float32, centres=dtype)
    found = statistics_and_gradients(case, "triton")
    assert found["gradient of centres"].dtype == dtype
    plain = statistics_and_gradients(case, "reference")
    truth = statistics_and_gradients(case.to(torch.float64), "reference")
    assert_all_as_accurate(case, found, plain, truth)


def test_small_gradients_of_float16_are_kept() -> None:
    """A mean over many samples makes weights that float16 would lose."""
    case = make_case("one centre a class").to(torch.float32)
    gradients = []
    for share in (1.0, 1e-9):
        rows = case.rows.clone().requires_grad_()
        with fastdml.use_backend("triton"):
            found = proxy_statistics(
                rows, case.centres, case.labels, case.how, scale=case.scale, product=torch.float16
            )
        gradients += torch.autograd.grad((share * found.others).sum(), rows)
    torch.testing.assert_close(gradients[1] * 1e9, gradients[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["rows", "centres"])
@pytest.mark.parametrize("name", ["soft", "hard", "one centre a class", "of any length"])
def test_what_is_not_finite_shows(name: str, where: str, value: float) -> None:
    case = make_case(name).to(torch.float32)
    getattr(case, where)[3, 2] = value
    found = statistics_and_gradients(case, "triton")
    if where == "rows":
        assert found["others"].isnan().tolist() == [i == 3 for i in range(len(case.rows))]
        assert found["gradient of rows"][3].isnan().all()
        assert found["gradient of rows"][:3].isfinite().all()
    else:
        assert found["others"].isnan().all()
        assert found["gradient of rows"].isnan().any()


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16], ids=str)
def test_twice_the_same_bits(product: torch.dtype) -> None:
    case = make_case("soft, centres as rows").to(torch.float32)
    first, second = (statistics_and_gradients(case, "triton", product=product) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("packed", "similarities"), [(3_000, 100), (1 << 20, 1 << 20)])
def test_sizes_of_chunks_and_blocks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, packed: int, similarities: int
) -> None:
    case = make_case("soft").to(torch.float32)._replace(spread=False)
    wanted = statistics_and_gradients(case, "triton")
    monkeypatch.setattr(configs, "PROXY_PACKED", packed)
    monkeypatch.setattr(configs, "PROXY_SIMILARITIES", similarities)
    found = statistics_and_gradients(case, "triton")
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5, msg=name)


def strided(values: Tensor) -> Tensor:
    """The same numbers, not contiguous."""
    return torch.stack([values, values], dim=-1)[..., 0]


@pytest.mark.parametrize("name", ["soft", "soft, centres as rows"])
def test_strides_do_not_matter(name: str) -> None:
    case = make_case(name).to(torch.float32)
    apart = case._replace(rows=strided(case.rows), centres=strided(case.centres), labels=strided(case.labels))
    found, wanted = (statistics_and_gradients(each, "triton") for each in (apart, case))
    for name, value in found.items():
        assert torch.equal(value, wanted[name]), name


def test_under_autocast_nothing_changes() -> None:
    case = make_case("soft").to(torch.float32)._replace(spread=False)
    plain = statistics_and_gradients(case, "triton", product=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        cast = statistics_and_gradients(case, "triton", product=torch.bfloat16)
    assert all(torch.equal(plain[name], cast[name]) for name in plain)


@pytest.mark.parametrize("wanted", ["rows", "centres"])
def test_only_the_gradient_that_is_needed(wanted: str) -> None:
    case = make_case("soft").to(torch.float32)._replace(spread=False)
    gradients = []
    for needs in ((True, True), (wanted == "rows", wanted == "centres")):
        leaves = [
            leaf.clone().requires_grad_(need)
            for leaf, need in zip((case.rows, case.centres), needs, strict=True)
        ]
        with fastdml.use_backend("triton"):
            proxy_statistics(*leaves, case.labels, case.how, scale=case.scale).others.sum().backward()
        gradients.append(leaves[wanted == "centres"].grad)
        assert [leaf.grad is not None for leaf in leaves] == list(needs)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("columns", [False, True])
def test_operators_keep_the_contract_of_torch(direction: str, columns: bool) -> None:
    case = make_case("soft" if columns else "soft, centres as rows").to(torch.float32)
    settings = (*case.how[:1], columns, True, 20.0, 0.1, torch.float32)
    given = (case.rows, case.centres, case.labels, None)
    forward = torch.ops.fastdml.proxy_forward_triton.default
    with fastdml.use_backend("triton"):
        proxy_statistics(case.rows[:1], case.centres, case.labels[:1], Centres(case.how[0], columns=columns))
    arguments: tuple[object, ...] = (*given, *settings, True)
    operator = forward
    if direction == "backward":
        others, target, total, spread, norms = forward(*arguments)
        grads = [torch.ones_like(value) for value in (others, target, total, spread)]
        arguments = (*grads, *given, others, norms, *settings, True, True)
        operator = torch.ops.fastdml.proxy_backward_triton.default
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_what_cannot_run_is_refused() -> None:
    case = make_case("soft")
    with pytest.raises(fastdml.BackendError, match="float64"):
        statistics_and_gradients(case, "triton")
    with pytest.raises(fastdml.BackendError, match="shares of classes have no triton kernels"):
        statistics_and_gradients(case.to(torch.float32), "triton", shares=torch.ones(40, 30))
    with pytest.raises(TypeError, match="product must be float16, bfloat16 or float32 on triton, got"):
        statistics_and_gradients(case.to(torch.float32), "triton", product=torch.float64)
