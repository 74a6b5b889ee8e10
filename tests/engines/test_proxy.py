"""The proxy engine on every backend that runs on CPU tensors, against the dense form in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from proxy_cases import CASES, ProxyCase, assert_all_as_accurate, make_case, statistics_and_gradients
from torch import Tensor

import fastdml
from fastdml.engines.proxy import combined, proxy_statistics
from fastdml.rules import Centres

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=["cpu", "blocked"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in fastdml.available_backends():
        pytest.skip(f"no {request.param} backend here")
    return str(request.param)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_equals_the_dense_form(backend: str, name: str, dtype: torch.dtype) -> None:
    case = make_case(name).to(dtype)
    found = statistics_and_gradients(case, backend)
    plain = statistics_and_gradients(case, "reference")
    truth = statistics_and_gradients(case.to(torch.float64), "reference")
    assert all(value.dtype == dtype for value in found.values())
    assert_all_as_accurate(found, plain, truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["soft", "one centre a class"])
def test_centres_keep_their_dtype(backend: str, name: str, dtype: torch.dtype) -> None:
    case = make_case(name).to(torch.float32, centres=dtype)
    found = statistics_and_gradients(case, backend)
    assert found["gradient of centres"].dtype == dtype
    plain = statistics_and_gradients(case, "reference")
    truth = statistics_and_gradients(case.to(torch.float64), "reference")
    assert_all_as_accurate(found, plain, truth)


@pytest.mark.parametrize("name", ["soft", "one centre a class", "of any length"])
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    case = make_case(name)
    rows, centres = case.rows[:6].requires_grad_(), case.centres.requires_grad_()

    def statistics(rows: Tensor, centres: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            proxy_statistics(rows, centres, case.labels[:6], case.how, scale=case.scale, spread=case.spread)
        )

    with fastdml.use_backend("reference"):
        assert torch.autograd.gradcheck(statistics, (rows, centres), fast_mode=True)


def test_shares_weigh_the_total() -> None:
    case = make_case("soft")
    shares = torch.rand(40, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = statistics_and_gradients(case, "blocked", shares=shares)
    truth = statistics_and_gradients(case, "reference", shares=shares)
    for name, value in found.items():
        torch.testing.assert_close(value, truth[name], msg=name)


def test_native_backends_refuse_shares_by_name() -> None:
    case = make_case("soft")
    with pytest.raises(fastdml.BackendError, match="shares of classes have no cpu kernels"):
        statistics_and_gradients(case, "cpu", shares=torch.ones(40, 30, dtype=torch.float64))


def test_sums_over_many_classes_keep_their_digits(backend: str) -> None:
    generator = torch.Generator().manual_seed(2)
    rows = F.normalize(torch.randn(3, 8, generator=generator, dtype=torch.float64), dim=1)
    centres = torch.randn(300_000, 8, generator=generator, dtype=torch.float64)
    case = ProxyCase(rows, centres, torch.tensor([0, 7, 299_999]), Centres(), 20.0)
    found = statistics_and_gradients(case.to(torch.float32), backend)
    plain = statistics_and_gradients(case.to(torch.float32), "reference")
    truth = statistics_and_gradients(case, "reference")
    assert_all_as_accurate(found, plain, truth)


@pytest.mark.parametrize("parts", [[30], [10, 20], [1, 28, 1], [7, 7, 7, 9]])
def test_parts_of_the_classes_combine_to_all(backend: str, parts: list[int]) -> None:
    case = make_case("soft")
    found = []
    first = 0
    with fastdml.use_backend(backend):
        for count in parts:
            here = (case.labels >= first) & (case.labels < first + count)
            centres = case.centres[:, first * 5 : (first + count) * 5]
            labels = torch.where(here, case.labels - first, -1)
            found.append(
                proxy_statistics(case.rows, centres, labels, case.how, scale=case.scale, spread=True)
            )
            first += count
        whole = proxy_statistics(
            case.rows, case.centres, case.labels, case.how, scale=case.scale, spread=True
        )
    for name, value in combined(found)._asdict().items():
        torch.testing.assert_close(value, getattr(whole, name), msg=name)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["rows", "centres"])
@pytest.mark.parametrize("name", ["soft", "hard", "one centre a class"])
def test_what_is_not_finite_shows(backend: str, name: str, where: str, value: float) -> None:
    case = make_case(name).to(torch.float32)
    getattr(case, where)[3, 2] = value
    found = statistics_and_gradients(case, backend)
    if where == "rows":
        assert found["others"].isnan().tolist() == [i == 3 for i in range(40)]
        assert found["gradient of rows"][3].isnan().all()
        assert found["gradient of rows"][:3].isfinite().all()
    else:
        assert found["others"].isnan().all()
        assert found["gradient of rows"].isnan().any()


@pytest.mark.parametrize("name", ["many classes", "many samples"])
def test_twice_the_same_bits(backend: str, name: str) -> None:
    case = make_case(name).to(torch.float32)
    first, second = (statistics_and_gradients(case, backend) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_derivative_is_refused_by_name(backend: str) -> None:
    case = make_case("soft")
    rows = case.rows.requires_grad_()
    with fastdml.use_backend(backend):
        others = proxy_statistics(rows, case.centres, case.labels, case.how, scale=case.scale).others
        (gradient,) = torch.autograd.grad(others.sum(), rows, create_graph=True)
        with pytest.raises(NotImplementedError, match="differentiated once"):
            gradient.sum().backward()


@pytest.mark.parametrize("shape", [(0, 8), (4, 0)])
def test_nothing_to_compare(backend: str, shape: tuple[int, int]) -> None:
    rows = torch.ones(shape, requires_grad=True)
    centres = torch.ones(6, shape[1], requires_grad=True)
    with fastdml.use_backend(backend):
        found = proxy_statistics(rows, centres, torch.zeros(shape[0], dtype=torch.int64), Centres(2, 0.1))
        (found.others.sum() + found.target.sum()).backward()
    assert found.others.shape == shape[:1]
    assert rows.grad is not None
    assert rows.grad.shape == shape


def strided(values: Tensor) -> Tensor:
    """The same numbers, not contiguous."""
    return torch.stack([values, values], dim=-1)[..., 0]


def test_strides_do_not_matter(backend: str) -> None:
    case = make_case("soft").to(torch.float32)
    apart = ProxyCase(
        strided(case.rows), strided(case.centres), strided(case.labels), case.how, case.scale, True
    )
    found, wanted = (statistics_and_gradients(each, backend) for each in (apart, case))
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], msg=name)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_operators_keep_the_contract_of_torch(
    backend: str, direction: str, columns: bool, apart: bool
) -> None:
    case = make_case("soft" if columns else "soft, centres as rows").to(torch.float32)
    settings = (*case.how[:1], columns, True, 20.0, 0.1, torch.float32)
    rows = case.rows.T.contiguous().T if apart else case.rows
    centres = case.centres.T.contiguous().T if apart else case.centres
    given = (rows, centres, case.labels, None)
    forward = getattr(torch.ops.fastdml, f"proxy_forward_{backend}").default
    arguments: tuple[object, ...] = (*given, *settings, True)
    operator = forward
    if direction == "backward":
        others, target, total, spread, norms = forward(*arguments)
        grads = [torch.ones_like(value) for value in (others, target, total, spread)]
        arguments = (*grads, *given, others, norms, *settings, True, True)
        operator = getattr(torch.ops.fastdml, f"proxy_backward_{backend}").default
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
