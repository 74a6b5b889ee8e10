"""The CUDA operators of the centroid engine against the dense form in float64.

Every test that does not need a device runs twice: on the GPU, where there is one, and with the same kernels
emulated on the host, with blocks so small that most cases span several.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from captured import assert_replays
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

OPERATORS = {
    name: getattr(torch.ops.fastdml, f"{name}_cuda").default
    for name in (
        "nearest_others",
        "hinge_sums",
        "hinge_gradients",
        "listed_distances",
        "listed_gradients",
        "class_sums",
    )
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def arguments(case: CentroidCase) -> dict[str, tuple[Any, ...]]:
    """What every operator is given of a case, but for the question which gradients are needed."""
    rows, points, labels, _ = case
    upstream = torch.linspace(-0.5, 1.5, len(rows)).to(rows)
    with fastdml.use_backend("reference"):
        distances = listed_distances(rows, points, case.listed)
    return {
        "nearest_others": (rows, points, labels, names_of(case), case.k, rows.dtype),
        "hinge_sums": (rows, points, labels, case.limits, rows.dtype),
        "hinge_gradients": (upstream, rows, points, labels, case.limits, rows.dtype),
        "listed_distances": (rows, points, case.listed),
        "listed_gradients": (upstream[:, None].expand_as(distances), rows, points, case.listed, distances),
        "class_sums": (rows, labels, len(points), rows.dtype),
    }


def names_of(case: CentroidCase) -> Tensor:
    """[P], a label for every point."""
    return torch.arange(len(case.points), device=case.points.device)


def clustered(samples: int, classes: int, width: int, k: int = 3) -> CentroidCase:
    """Few or many rows and points, for sizes at the edge of a block."""
    generator = torch.Generator().manual_seed(samples + classes + width)
    rows = torch.randn(samples, width, generator=generator, dtype=torch.float64) + 0.4
    points = torch.randn(classes, width, generator=generator, dtype=torch.float64) + 0.2
    return CentroidCase(rows, points, torch.randint(classes, (samples,), generator=generator), k)


def assert_equals_the_dense_form(case: CentroidCase) -> None:
    found = values_and_gradients(case, "cuda")
    plain = values_and_gradients(case, "reference")
    truth = values_and_gradients(case.to(torch.float64), "reference")
    assert all(value.dtype == case.rows.dtype for value in found.values())
    assert_all_as_accurate(found, plain, truth)


@pytest.mark.parametrize("name", CASES)
@DTYPES
def test_equals_the_dense_form(name: str, dtype: torch.dtype, device: str) -> None:
    assert_equals_the_dense_form(make_case(name).to(dtype).on(device))


@pytest.mark.parametrize("name", CASES)
@DTYPES
def test_finds_the_nearest(name: str, dtype: torch.dtype, device: str) -> None:
    case = make_case(name).to(dtype).on(device)
    # of squares: the root of a rounding error, where distances are near 0
    tolerance = (
        10 * math.sqrt(torch.finfo(dtype).eps) if name == "duplicates" else 20 * torch.finfo(dtype).eps
    )
    assert_are_nearest(neighbours(case, "cuda"), case, tolerance)


@pytest.mark.parametrize(
    ("samples", "classes", "width"),
    [
        *((samples, classes, 3) for samples, classes in ((24, 64), (25, 65), (23, 63), (1, 1537), (2, 769))),
        *((49, 127, width) for width in (31, 32, 33, 127, 128, 129, 257)),
    ],
)
def test_sizes_at_the_edges_of_blocks(samples: int, classes: int, width: int, device: str) -> None:
    case = clustered(samples, classes, width).to(torch.float32).on(device)
    assert_equals_the_dense_form(case)
    assert_are_nearest(neighbours(case, "cuda"), case, 1e-5)


@pytest.mark.parametrize("k", [1, 31, 32, 33, 63, 64, 65, 96, 200])
def test_any_number_of_neighbours(k: int, device: str) -> None:
    """Points in an order in which every one, or none, is nearer than those before it."""
    case = clustered(26, 190, 6, k)
    for values in (case.rows, case.points):
        values.copy_(values.mul(64).round().clamp(-300, 300))  # products are exact, so that ties are
    case.points[100:150] = case.points[50:100]
    by_distance = case.points[(case.rows[0] - case.points).norm(dim=1).argsort()]
    for points in (case.points, by_distance, by_distance.flip(0)):
        ordered = case._replace(points=points.contiguous()).to(torch.float32)
        apart = ordered.rows.double()[:, None] - ordered.points.double()
        squared = apart.square().sum(2).masked_fill(torch.arange(190) == case.labels[:, None], math.inf)
        wanted = squared.sort(dim=1, stable=True).indices[:, :k]  # the first of equals comes first
        wanted = torch.nn.functional.pad(wanted, (0, k - wanted.shape[1]), value=-1)
        wanted = torch.where(torch.arange(k) < 189, wanted, -1)
        assert torch.equal(neighbours(ordered.on(device), "cuda").cpu(), wanted)


def test_neighbours_of_the_same_label_are_nobody(device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(200, 8, generator=generator)
    labels = torch.randint(12, (200,), generator=generator) * (1 << 40)
    rows, labels = rows.to(device), labels.to(device)
    with fastdml.use_backend("cuda"):
        found = nearest_others(rows, rows, labels, labels, 5)
    with fastdml.use_backend("reference"):
        assert torch.equal(found, nearest_others(rows, rows, labels, labels, 5))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(value: float, device: str) -> None:
    case = make_case("plain").to(torch.float32).on(device)
    names, limits = names_of(case), case.limits
    spoilt = [i == 3 for i in range(len(case.rows))]
    own_class = [i == int(case.labels[3]) for i in range(len(case.points))]
    case.rows[3, 2] = value
    found = values_and_gradients(case, "cuda")
    assert found["hinge sums"].isnan().tolist() == spoilt
    assert found["hinge sums, gradient of rows"].isnan().all(dim=1).tolist() == spoilt
    assert found["class sums"].isfinite().all(dim=1).tolist() == [not own for own in own_class]
    present = case.listed >= 0
    assert torch.equal(
        found["listed distances"].isfinite(), ~(present & torch.tensor(spoilt)[:, None].to(device))
    )
    with fastdml.use_backend("cuda"):
        assert (nearest_others(case.rows, case.points, case.labels, names, 4)[3] == -1).all()
        case.rows[3, 2] = 0
        case.points[5, 1] = value
        nearest = nearest_others(case.rows, case.points, case.labels, names, 33)
        assert (nearest != 5).all()
        assert ((nearest >= 0).sum(dim=1) >= 31).all()
        assert hinge_sums(case.rows, case.points, case.labels, limits).isnan().all()
        alone = hinge_sums(case.rows, case.points[5:6], torch.zeros_like(case.labels), limits)
        assert alone.isnan().all()  # though it is the own point of every row
    assert values_and_gradients(case, "cuda")["hinge sums, gradient of rows"].isnan().all()


def test_points_so_far_that_squares_overflow_are_near_to_nobody(device: str) -> None:
    case = make_case("plain").to(torch.float32).on(device)
    case.points[5] = 1e25
    with fastdml.use_backend("cuda"):
        sums = hinge_sums(case.rows, case.points, case.labels, case.limits)
        found = nearest_others(case.rows, case.points, case.labels, names_of(case), 33)
    assert (found != 5).all()
    keep = torch.arange(33, device=device) != 5
    own = torch.where(case.labels == 5, -1, case.labels - (case.labels > 5).long())
    with fastdml.use_backend("reference"):
        torch.testing.assert_close(sums, hinge_sums(case.rows, case.points[keep], own, case.limits))


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_limits_that_nothing_is_within(limit: float, device: str) -> None:
    case = make_case("plain").to(torch.float32).on(device)
    limits = torch.full_like(case.limits, limit)
    sums, counts = OPERATORS["hinge_sums"](case.rows, case.points, case.labels, limits, torch.float32)
    assert not counts.any()
    assert sums.isnan().all() if math.isnan(limit) else not sums.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_of_many_rows_keep_their_digits(dtype: torch.dtype, device: str) -> None:
    rows = torch.full((300_000, 3), 0.1, device=device)
    labels = torch.zeros(len(rows), dtype=torch.int64, device=device)
    with fastdml.use_backend("cuda"):
        found = class_sums(rows, labels, 2, dtype)
    wanted = torch.tensor([[30_000.0] * 3, [0.0] * 3], device=device).to(dtype)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("samples", [64, 65, 400])
def test_labels_outside_the_classes_are_left_out(samples: int, device: str) -> None:
    """With few rows of a class, which one warp sums, and with many, which several do."""
    rows = torch.randint(-50, 50, (samples, 130)).float()
    labels = torch.randint(-2, 10, (samples,)) * (1 << 33)
    labels = torch.where(labels % 3 == 0, labels, labels >> 33)
    members = (labels[None, :] == torch.arange(8)[:, None]).float()
    with fastdml.use_backend("cuda"):
        found = class_sums(rows.to(device), labels.to(device), 8).cpu()
    assert torch.equal(found, members @ rows)


def test_listed_indices_outside_the_points_are_nobody(device: str) -> None:
    case = make_case("plain").on(device)
    listed = case.listed.clone()
    listed[:, 1] = len(case.points)
    with fastdml.use_backend("reference"):
        wanted = listed_distances(case.rows, case.points, listed.where(listed < len(case.points), -1))
    found = OPERATORS["listed_distances"](case.rows, case.points, listed)
    torch.testing.assert_close(found, wanted)
    grad = torch.ones_like(found)
    for gradient in OPERATORS["listed_gradients"](grad, case.rows, case.points, listed, found, True, True):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["plain", "many points", "many rows", "many neighbours", "duplicates"])
def test_two_runs_are_bitwise_equal(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated, the second run takes blocks and threads in the opposite order."""
    case = make_case(name).to(torch.float32).on(device)
    monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "0")
    first = {**values_and_gradients(case, "cuda"), "neighbours": neighbours(case, "cuda")}
    monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "1")
    second = {**values_and_gradients(case, "cuda"), "neighbours": neighbours(case, "cuda")}
    assert all(torch.equal(first[what], second[what]) for what in first)


def test_strided_tensors(device: str) -> None:
    given = arguments(make_case("plain").to(torch.float32).on(device))

    def apart(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        strided = torch.stack([value, torch.zeros_like(value)], dim=-1)[..., 0]
        assert not strided.is_contiguous()
        return strided

    for name, operator in OPERATORS.items():
        needs = (True, True) if name.endswith("gradients") else ()
        found, wanted = (operator(*each, *needs) for each in (tuple(map(apart, given[name])), given[name]))
        for one, other in zip(
            *((each,) if isinstance(each, Tensor) else each for each in (found, wanted)), strict=True
        ):
            assert torch.equal(one, other), name


@pytest.mark.parametrize("name", ["hinge_gradients", "listed_gradients"])
def test_gradients_that_nobody_needs_are_not_made(name: str, device: str) -> None:
    given = arguments(make_case("many rows").to(torch.float32).on(device))[name]
    both = OPERATORS[name](*given, True, True)
    for needs in ((True, False), (False, True), (False, False)):
        for found, whole, need in zip(OPERATORS[name](*given, *needs), both, needs, strict=True):
            assert torch.equal(found, whole if need else whole[:0])


@pytest.mark.parametrize("name", ["plain", "one point"])
def test_operators_keep_torch_s_contract(name: str, device: str) -> None:
    given = arguments(make_case(name).to(torch.float32).on(device))
    for operator in ("nearest_others", "hinge_sums", "listed_distances", "class_sums"):
        torch.library.opcheck(OPERATORS[operator], given[operator])
    for operator in ("hinge_gradients", "listed_gradients"):
        for needs in ((True, True), (False, True), (True, False)):
            torch.library.opcheck(OPERATORS[operator], (*given[operator], *needs))


def test_half_products_are_made_in_float32(device: str) -> None:
    case = make_case("unit").to(torch.float32).on(device)
    halves, wholes = (values_and_gradients(case, "cuda", product=dtype) for dtype in (torch.bfloat16, None))
    assert all(torch.equal(halves[name], wholes[name]) for name in wholes)


def test_says_what_it_does_not_take(device: str) -> None:
    rows, points, labels, _ = case = make_case("plain").to(torch.float32).on(device)
    names, f32 = names_of(case), torch.float32
    nearest, hinges, listed, sums = (
        OPERATORS[name] for name in ("nearest_others", "hinge_sums", "listed_distances", "class_sums")
    )
    for message, call in {
        "rows must be float32 or float64, got Half": lambda: listed(rows.half(), points.half(), case.listed),
        "points must have the dtype of rows, got Double": lambda: listed(rows, points.double(), case.listed),
        r"points must have shape \[any, 24\], got \[33, 8\]": lambda: listed(
            rows, points[:, :8], case.listed
        ),
        "rows and points must not be empty, got 0 and 792": lambda: listed(rows[:0], points, case.listed[:0]),
        r"listed must have shape \[60, any\], got \[59, 4\]": lambda: listed(rows, points, case.listed[1:]),
        "listed must be int64, got Int": lambda: listed(rows, points, case.listed.int()),
        "k must be at least 1, got 0": lambda: nearest(rows, points, labels, names, 0, f32),
        r"labels must have shape \[60\], got \[59\]": lambda: nearest(
            rows, points, labels[1:], names, 3, f32
        ),
        r"point_labels must have shape \[33\], got \[60\]": lambda: nearest(
            rows, points, labels, labels, 3, f32
        ),
        r"own must have shape \[60\], got \[1, 60\]": lambda: hinges(
            rows, points, labels[None], case.limits, f32
        ),
        "limits must have the dtype of rows, got Double": lambda: hinges(
            rows, points, labels, case.limits.double(), f32
        ),
        "dtype must be float32 or float64, got BFloat16": lambda: sums(rows, labels, 33, torch.bfloat16),
        "classes must be at least 0, got -1": lambda: sums(rows, labels, -1, f32),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            call()


@pytest.mark.usefixtures("gpu")
@DTYPES
def test_blocks_of_their_real_size(dtype: torch.dtype) -> None:
    """Several blocks of rows and several of points."""
    case = clustered(2500, 6000, 64, k=40).to(dtype).on("cuda")
    assert_equals_the_dense_form(case)
    assert_are_nearest(neighbours(case, "cuda"), case, 20 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("gpu")
def test_a_captured_graph_repeats_the_step() -> None:
    """Which it could not if the host waited for the device."""
    generator = torch.Generator().manual_seed(1)
    case = make_case("many points").to(torch.float32).on("cuda")
    given = arguments(case)

    def fill() -> None:
        case.rows.copy_(torch.randn(case.rows.shape, generator=generator))
        case.points.copy_(torch.randn(case.points.shape, generator=generator))
        case.labels.copy_(torch.randint(len(case.points), case.labels.shape, generator=generator))

    def step() -> list[Tensor]:
        found: list[Tensor] = []
        for name, operator in OPERATORS.items():
            results = operator(*given[name], *((True, True) if name.endswith("gradients") else ()))
            found += [results] if isinstance(results, Tensor) else results
        return found

    assert_replays(fill, step, 1e-6)
