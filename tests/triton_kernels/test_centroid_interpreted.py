"""The centroid kernels on the CPU, by Triton's interpreter, against the dense form in float64.

In 16 bits the measure is the dense form on rows and points rounded alike.
"""

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
from fastdml.triton_kernels import configs
from pair_batches import assert_as_accurate

# numpy warns of what a select drops
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("poisoned_memory"),
]

PRODUCTS = pytest.mark.parametrize("product", [torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that share the points, several blocks of weights, segments of several pieces."""
    monkeypatch.setattr(configs, "class_splits", lambda _tensor, _row_blocks, tiles: min(tiles, 3))
    monkeypatch.setattr(configs, "HINGE_PRODUCTS", 2_000)
    monkeypatch.setattr(configs, "HINGE_ROWS", 40)
    monkeypatch.setattr(configs, "CENTROID_PRODUCTS", 5_000)
    monkeypatch.setattr(configs, "SEGMENT_PIECE", 16)


def made(name: str) -> CentroidCase:
    """The case in float32; of the largest a part, for the interpreter is slow."""
    case = make_case(name).to(torch.float32)
    if name == "many rows":
        return case._replace(rows=case.rows[:200], labels=case.labels[:200])
    if name in ("many points", "many neighbours"):
        return case._replace(points=case.points[:150], labels=case.labels % 150)
    return case


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_form(name: str) -> None:
    case = made(name)
    found = values_and_gradients(case, "triton")
    plain = values_and_gradients(case, "reference")
    truth = values_and_gradients(case.to(torch.float64), "reference")
    assert all(value.dtype == torch.float32 for value in found.values())
    assert_all_as_accurate(found, plain, truth)


@pytest.mark.parametrize("name", CASES)
def test_finds_the_nearest(name: str) -> None:
    case = made(name)
    # of squares: the root of a rounding error, where distances are near 0
    eps = torch.finfo(torch.float32).eps
    tolerance = 10 * math.sqrt(eps) if name == "duplicates" else 20 * eps
    assert_are_nearest(neighbours(case, "triton"), case, tolerance)


@pytest.mark.parametrize("splits", [1, 5])
@pytest.mark.parametrize("k", [1, 8, 9, 32, 33, 200])
def test_any_number_of_nearest(monkeypatch: pytest.MonkeyPatch, k: int, splits: int) -> None:
    monkeypatch.setattr(configs, "class_splits", lambda _tensor, _row_blocks, tiles: min(tiles, splits))
    case = made("many points")
    case = CentroidCase(case.rows[:12], case.points, case.labels[:12], k)
    assert torch.equal(neighbours(case, "triton"), neighbours(case.to(torch.float64), "reference"))


@pytest.mark.parametrize("k", [5, 40])
def test_neighbours_of_the_same_label_are_nobody(k: int) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(90, 8, generator=generator)
    labels = torch.randint(12, (90,), generator=generator) * (1 << 60) - (1 << 61)
    found = {}
    for name in ("reference", "triton"):
        with fastdml.use_backend(name):
            found[name] = nearest_others(rows, rows, labels, labels, k)
    assert torch.equal(found["triton"], found["reference"])


def distances_to(case: CentroidCase, found: Tensor) -> Tensor:
    """[B, k], float64, the true ones."""
    return (case.rows.double()[:, None] - case.points.double()[found]).norm(dim=2)


@pytest.mark.parametrize("name", ["plain", "unit", "wide", "many neighbours"])
@PRODUCTS
def test_nearest_by_products_of_16_bits(name: str, product: torch.dtype) -> None:
    case = made(name)
    if name == "wide":
        case = case._replace(k=19)
    kept, rounded, true = (
        distances_to(case, neighbours(at, backend, product=dtype))
        for at, backend, dtype in (
            (case, "triton", product),
            (case.to(product).to(torch.float32), "reference", None),
            (case.to(torch.float64), "reference", None),
        )
    )
    assert_as_accurate(kept, rounded, true, "distances")


def hinges(
    case: CentroidCase, backend: str, limits: Tensor, product: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Hinge sums and the gradients of an uneven weighting of them."""
    rows, points = case.rows.clone().requires_grad_(), case.points.clone().requires_grad_()
    with fastdml.use_backend(backend):
        sums = hinge_sums(rows, points, case.labels, limits.to(rows), product=product)
        upstream = torch.linspace(-0.4, 1, len(rows)).to(rows)
        gradients = torch.autograd.grad(sums, (rows, points), upstream)
    return {"sums": sums.detach(), "rows": gradients[0], "points": gradients[1]}


@pytest.mark.parametrize("name", ["plain", "unit", "wide", "zero vectors", "elsewhere"])
@PRODUCTS
def test_hinges_by_products_of_16_bits(name: str, product: torch.dtype) -> None:
    case = made(name)
    found = hinges(case, "triton", case.limits, product)
    plain = hinges(case.to(product).to(torch.float32), "reference", case.limits)
    truth = hinges(case.to(torch.float64), "reference", case.limits)
    assert_all_as_accurate(found, plain, truth)


@pytest.mark.parametrize("power", [-40, -10, 10, 40])
def test_float16_holds_numbers_of_any_size(power: int) -> None:
    case, scale = made("plain"), 2.0**power
    scaled = case._replace(rows=case.rows * scale, points=case.points * scale)
    found = hinges(scaled, "triton", case.limits * scale, torch.float16)
    wanted = hinges(case, "triton", case.limits, torch.float16)
    assert torch.equal(found["sums"], wanted["sums"] * scale)
    assert torch.equal(found["rows"], wanted["rows"])
    assert torch.equal(found["points"], wanted["points"])
    assert torch.equal(
        neighbours(scaled, "triton", product=torch.float16), neighbours(case, "triton", product=torch.float16)
    )


def test_small_gradients_of_float16_are_kept() -> None:
    case = made("plain")
    limits, found = case.limits, []
    for share in (1.0, 2.0**-40):
        rows = case.rows.clone().requires_grad_()
        with fastdml.use_backend("triton"):
            sums = hinge_sums(rows, case.points, case.labels, limits, product=torch.float16)
        found += torch.autograd.grad(share * sums.sum(), rows)
    torch.testing.assert_close(found[1] * 2.0**40, found[0], rtol=1e-5, atol=1e-6)


def test_sums_of_many_rows_keep_their_digits() -> None:
    rows = torch.full((700, 3), 0.1)
    with fastdml.use_backend("triton"):
        exact = class_sums(rows, torch.zeros(len(rows), dtype=torch.int64), 2, torch.float64)
        single = class_sums(rows, torch.zeros(len(rows), dtype=torch.int64), 2)
    wanted = torch.tensor([[rows[0, 0].double() * len(rows)] * 3, [0.0] * 3], dtype=torch.float64)
    torch.testing.assert_close(exact, wanted, rtol=1e-14, atol=0)
    torch.testing.assert_close(single, wanted.float(), rtol=3e-7, atol=0)


def test_a_class_is_summed_alike_whatever_else_there_is() -> None:
    case = made("many rows")
    case.rows[::7] *= 1e4
    with fastdml.use_backend("triton"):
        together = class_sums(case.rows, case.labels, 9)
        for label in range(9):
            own = case.rows[case.labels == label]
            alone = class_sums(own, torch.zeros(len(own), dtype=torch.int64), 1)
            assert torch.equal(alone[0], together[label])


def test_labels_outside_the_classes_are_left_out() -> None:
    rows = torch.arange(12.0).reshape(6, 2)
    with fastdml.use_backend("triton"):
        found = class_sums(rows, torch.tensor([1, -1, 5, 1, 0, 3]), 3)
    assert found.tolist() == [[8.0, 9.0], [6.0, 8.0], [0.0, 0.0]]


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(value: float, product: torch.dtype) -> None:
    case = made("plain")
    limits, names = case.limits, torch.arange(33)
    case.rows[3, 2] = value
    with fastdml.use_backend("triton"):
        found = hinges(case, "triton", limits, product)
        for each in (found["sums"], found["rows"].sum(dim=1)):
            assert each.isfinite().tolist() == [i != 3 for i in range(60)]
        assert found["points"].isnan().all()
        listed = listed_distances(case.rows, case.points, case.listed)
        assert not listed[3][case.listed[3] >= 0].isfinite().any()
        for k in (4, 33):
            near = nearest_others(case.rows, case.points, case.labels, names, k, product=product)
            assert ((near == -1).all(dim=1)).tolist() == [i == 3 for i in range(60)]
        sums = class_sums(case.rows, case.labels, 33)
        assert sums.isfinite().all(dim=1).tolist() == [i != int(case.labels[3]) for i in range(33)]
        case.rows[3, 2] = 0
        case.points[5, 1] = value
        assert hinge_sums(case.rows, case.points, case.labels, limits, product=product).isnan().all()
        for k in (32, 33):
            near = nearest_others(case.rows, case.points, case.labels, names, k, product=product)
            assert (near != 5).all()
            assert ((near >= 0).sum(dim=1) == 32 - (case.labels != 5).int()).all()


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16], ids=str)
def test_twice_the_same_bits(product: torch.dtype) -> None:
    case = made("duplicates")
    first, second = (values_and_gradients(case, "triton", product=product) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(*(neighbours(case, "triton", product=product) for _ in range(2)))


def strided(values: Tensor) -> Tensor:
    """The same numbers, not contiguous."""
    return torch.stack([values, values], dim=-1)[..., 0]


@pytest.mark.parametrize("product", [torch.float32, torch.float16], ids=str)
def test_strides_do_not_matter(product: torch.dtype) -> None:
    case = made("plain")
    apart = CentroidCase(strided(case.rows), strided(case.points), strided(case.labels), case.k)
    found, wanted = (values_and_gradients(each, "triton", product=product) for each in (apart, case))
    for name, value in found.items():
        assert torch.equal(value, wanted[name]), name
    assert torch.equal(neighbours(apart, "triton"), neighbours(case, "triton"))


@pytest.mark.parametrize("wanted", ["rows", "points"])
@pytest.mark.parametrize("function", [hinge_sums, listed_distances])
def test_only_the_gradient_that_is_needed(wanted: str, function: object) -> None:
    case = made("plain")
    gradients = []
    for needs in ((True, True), (wanted == "rows", wanted == "points")):
        leaves = [
            leaf.clone().requires_grad_(need)
            for leaf, need in zip((case.rows, case.points), needs, strict=True)
        ]
        with fastdml.use_backend("triton"):
            if function is hinge_sums:
                hinge_sums(*leaves, case.labels, case.limits).sum().backward()
            else:
                listed_distances(*leaves, case.listed).sum().backward()
        gradients.append(leaves[wanted == "points"].grad)
        assert [leaf.grad is not None for leaf in leaves] == list(needs)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("apart", [False, True])
def test_operators_keep_the_contract_of_torch(apart: bool) -> None:
    case = made("plain")
    rows = case.rows.T.contiguous().T if apart else case.rows
    points = case.points.T.contiguous().T if apart else case.points
    names, distances, limits = torch.arange(33), torch.ones(60, 4), case.limits
    calls: dict[str, tuple[object, ...]] = {
        "nearest_others": (rows, points, case.labels, names, 3, torch.float32),
        "hinge_sums": (rows, points, case.labels, limits, torch.float32),
        "hinge_gradients": (limits, rows, points, case.labels, limits, torch.float32, True, False),
        "listed_distances": (rows, points, case.listed),
        "listed_gradients": (distances, rows, points, case.listed, distances, False, True),
        "class_sums": (rows, case.labels, 33, torch.float64),
    }
    neighbours(case, "triton")  # registers the operators
    for name, arguments in calls.items():
        operator = getattr(torch.ops.fastdml, f"{name}_triton").default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(fastdml.BackendError, match="float64"):
        neighbours(make_case("plain"), "triton")
    with pytest.raises(TypeError, match="product must be float16, bfloat16 or float32 on triton, got"):
        neighbours(made("plain"), "triton", product=torch.float64)
