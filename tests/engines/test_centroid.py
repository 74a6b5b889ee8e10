"""The centroid engine on every backend that runs on CPU tensors, against the dense form in float64."""

from __future__ import annotations

import math

import pytest
import torch
from centroid_cases import (
    CASES,
    CentroidCase,
    assert_all_as_accurate,
    assert_are_nearest,
    make_case,
    neighbours,
    values_and_gradients,
)
from torch import Tensor

import fastdml
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture(params=["cpu", "blocked"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in fastdml.available_backends():
        pytest.skip(f"no {request.param} backend here")
    return str(request.param)


@pytest.mark.parametrize("name", CASES)
@DTYPES
def test_equals_the_dense_form(backend: str, name: str, dtype: torch.dtype) -> None:
    case = make_case(name).to(dtype)
    found = values_and_gradients(case, backend)
    plain = values_and_gradients(case, "reference")
    truth = values_and_gradients(case.to(torch.float64), "reference")
    assert all(value.dtype == dtype for value in found.values())
    assert_all_as_accurate(found, plain, truth)


@pytest.mark.parametrize("name", CASES)
@DTYPES
def test_finds_the_nearest(backend: str, name: str, dtype: torch.dtype) -> None:
    case = make_case(name).to(dtype)
    # of squares: the root of a rounding error, where distances are near 0
    eps = torch.finfo(dtype).eps
    tolerance = 10 * math.sqrt(eps) if name == "duplicates" else 20 * eps
    assert_are_nearest(neighbours(case, backend), case, tolerance)
    assert_are_nearest(neighbours(case, "reference"), case, tolerance)


def test_neighbours_of_the_same_label_are_nobody() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(200, 8, generator=generator)
    labels = torch.randint(12, (200,), generator=generator)
    wanted = None
    for name in ("reference", "blocked", *({"cpu"} & set(fastdml.available_backends()))):
        with fastdml.use_backend(name):
            found = nearest_others(rows, rows, labels, labels, 5)
        assert (labels[found] != labels[:, None]).all()
        wanted = found if wanted is None else wanted
        assert torch.equal(found, wanted), name


@pytest.mark.parametrize("name", ["plain", "unit", "elsewhere"])
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    case = make_case(name)
    labels, listed, limits = case.labels[:6], case.listed[:6], case.limits[:6].requires_grad_()
    rows, points = case.rows[:6].requires_grad_(), case.points.requires_grad_()

    def values(rows: Tensor, points: Tensor, limits: Tensor) -> tuple[Tensor, ...]:
        return (
            class_sums(rows, labels, len(points)),
            listed_distances(rows, points, listed),
            hinge_sums(rows, points, labels, limits),
        )

    with fastdml.use_backend("reference"):
        assert torch.autograd.gradcheck(values, (rows, points, limits), fast_mode=True)


def test_sums_of_many_rows_keep_their_digits(backend: str) -> None:
    rows = torch.full((300_000, 3), 0.1)
    with fastdml.use_backend(backend):
        found = class_sums(rows, torch.zeros(len(rows), dtype=torch.int64), 2, torch.float64)
    torch.testing.assert_close(found, torch.tensor([[30_000.0] * 3, [0.0] * 3]).double(), rtol=1e-6, atol=0)


def test_labels_outside_the_classes_are_left_out(backend: str) -> None:
    rows = torch.arange(12.0).reshape(6, 2)
    with fastdml.use_backend(backend):
        found = class_sums(rows, torch.tensor([1, -1, 5, 1, 0, 3]), 3)
    assert found.tolist() == [[8.0, 9.0], [6.0, 8.0], [0.0, 0.0]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(backend: str, value: float) -> None:
    case = make_case("plain").to(torch.float32)
    limits = case.limits
    case.rows[3, 2] = value
    with fastdml.use_backend(backend):
        assert hinge_sums(case.rows, case.points, case.labels, limits).isfinite().tolist() == [
            i != 3 for i in range(60)
        ]
        listed = listed_distances(case.rows, case.points, case.listed)
        assert not listed[3][case.listed[3] >= 0].isfinite().any()
        names = torch.arange(33)
        assert (nearest_others(case.rows, case.points, case.labels, names, 4)[3] == -1).all()
        sums = class_sums(case.rows, case.labels, 33)
        assert sums.isfinite().all(dim=1).tolist() == [i != int(case.labels[3]) for i in range(33)]
        case.rows[3, 2] = 0
        case.points[5, 1] = value
        assert hinge_sums(case.rows, case.points, case.labels, limits).isnan().all()
        assert (nearest_others(case.rows, case.points, case.labels, names, 32) != 5).all()


@pytest.mark.parametrize("name", ["many points", "many rows", "duplicates"])
def test_twice_the_same_bits(backend: str, name: str) -> None:
    case = make_case(name).to(torch.float32)
    first, second = (values_and_gradients(case, backend) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(neighbours(case, backend), neighbours(case, backend))


@pytest.mark.parametrize("name", ["many points", "many rows"])
def test_the_number_of_threads_does_not_matter(backend: str, name: str) -> None:
    case, threads, found = make_case(name), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append({**values_and_gradients(case, backend), "found": neighbours(case, backend)})
    finally:
        torch.set_num_threads(threads)
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("function", [hinge_sums, listed_distances])
def test_a_second_derivative_is_refused_by_name(backend: str, function: object) -> None:
    case = make_case("plain")
    rows = case.rows.requires_grad_()
    with fastdml.use_backend(backend):
        if function is hinge_sums:
            values = hinge_sums(rows, case.points, case.labels, case.limits.detach())
        else:
            values = listed_distances(rows, case.points, case.listed)
        (gradient,) = torch.autograd.grad(values.sum(), rows, create_graph=True)
        with pytest.raises(NotImplementedError, match="differentiated once"):
            gradient.sum().backward()


@pytest.mark.parametrize(("samples", "classes", "width"), [(0, 5, 8), (4, 0, 8), (4, 5, 0)])
def test_nothing_to_compare(backend: str, samples: int, classes: int, width: int) -> None:
    rows = torch.ones(samples, width, requires_grad=True)
    points = torch.ones(classes, width, requires_grad=True)
    own = torch.full((samples,), -1)
    with fastdml.use_backend(backend):
        sums = class_sums(rows, own, classes)
        hinges = hinge_sums(rows, points, own, torch.zeros(samples))
        listed = listed_distances(rows, points, torch.full((samples, 2), -1))
        found = nearest_others(rows, points, own, torch.arange(classes), 3)
        (sums.sum() + hinges.sum() + listed.sum()).backward()
    assert sums.shape == (classes, width)
    assert hinges.tolist() == [0.0] * samples
    assert listed.tolist() == [[0.0, 0.0]] * samples
    assert found.shape == (samples, 3)


def strided(values: Tensor) -> Tensor:
    """The same numbers, not contiguous."""
    return torch.stack([values, values], dim=-1)[..., 0]


def test_strides_do_not_matter(backend: str) -> None:
    case = make_case("plain").to(torch.float32)
    apart = CentroidCase(strided(case.rows), strided(case.points), strided(case.labels), case.k)
    found, wanted = (values_and_gradients(each, backend) for each in (apart, case))
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], msg=name)
    assert torch.equal(neighbours(apart, backend), neighbours(case, backend))


@pytest.mark.parametrize("apart", [False, True])
def test_operators_keep_the_contract_of_torch(backend: str, apart: bool) -> None:
    case = make_case("plain").to(torch.float32)
    rows = case.rows.T.contiguous().T if apart else case.rows
    points = case.points.T.contiguous().T if apart else case.points
    names, distances = torch.arange(33), torch.ones(60, 4)
    calls: dict[str, tuple[object, ...]] = {
        "nearest_others": (rows, points, case.labels, names, 3, torch.float32),
        "hinge_sums": (rows, points, case.labels, case.limits, torch.float32),
        "hinge_gradients": (
            case.limits, rows, points, case.labels, case.limits, torch.float32, True, True,
        ),
        "listed_distances": (rows, points, case.listed),
        "listed_gradients": (distances, rows, points, case.listed, distances, True, True),
        "class_sums": (rows, case.labels, 33, torch.float64),
    }  # fmt: skip
    for name, arguments in calls.items():
        operator = getattr(torch.ops.fastdml, f"{name}_{backend}").default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
