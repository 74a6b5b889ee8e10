"""The CUDA operators of the proxy engine against the dense form in float64.

Every test that does not need a device runs twice: on the GPU, where there is one, and with the same kernels
emulated on the host, with blocks so small that most cases span several.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captured import assert_replays
from proxy_cases import CASES, ProxyCase, assert_all_as_accurate, make_case, statistics_and_gradients
from torch import Tensor

from fastdml.rules import Centres

FORWARD = torch.ops.fastdml.proxy_forward_cuda.default
BACKWARD = torch.ops.fastdml.proxy_backward_cuda.default

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def assert_equals_the_dense_form(case: ProxyCase, terms: int = 1) -> None:
    found = statistics_and_gradients(case, "cuda")
    plain = statistics_and_gradients(case, "reference")
    truth = statistics_and_gradients(case.to(torch.float64), "reference")
    for name, value in found.items():
        assert value.dtype == (case.centres if name == "gradient of centres" else case.rows).dtype, name
    assert_all_as_accurate(found, plain, truth, terms)


def arguments(case: ProxyCase) -> tuple[Any, ...]:
    """What both operators are given of a case, but for the question which results are wanted."""
    how = case.how
    settings = (how.per_class, how.columns, how.normalised, case.scale, how.gamma, case.rows.dtype)
    return case.rows, case.centres, case.labels, None, *settings


def backward_arguments(case: ProxyCase) -> tuple[Any, ...]:
    """Those of the backward, with uneven upstream gradients."""
    *statistics, norms = FORWARD(*arguments(case), case.spread)
    upstream = [torch.linspace(-0.5, 1.5, len(each)).to(each) for each in statistics]
    rows, centres, labels, shares, *settings = arguments(case)
    return *upstream, rows, centres, labels, shares, statistics[0], norms, *settings


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_form(name: str, dtype: torch.dtype, device: str) -> None:
    assert_equals_the_dense_form(make_case(name).to(dtype).on(device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["soft", "one centre a class"])
def test_centres_keep_their_dtype(name: str, rows: torch.dtype, dtype: torch.dtype, device: str) -> None:
    assert_equals_the_dense_form(make_case(name).to(rows, centres=dtype).on(device))


@pytest.mark.parametrize("per_class", [1, 3])
@pytest.mark.parametrize("classes", [31, 33, 64, 65, 2100])
def test_few_samples_share_their_classes_out(classes: int, per_class: int, device: str) -> None:
    generator = torch.Generator().manual_seed(classes)
    rows = F.normalize(torch.randn(2, 5, generator=generator, dtype=torch.float64) + 0.4, dim=1)
    centres = torch.randn(classes * per_class, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([classes - 1, classes // 2])
    case = ProxyCase(rows, centres, labels, Centres(per_class, 0.2), 20.0)
    assert_equals_the_dense_form(case.to(torch.float32).on(device))


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1e-29])
@pytest.mark.parametrize("per_class", [2, 37, 2500])
def test_any_number_of_centres_a_class(per_class: int, gamma: float, device: str) -> None:
    generator = torch.Generator().manual_seed(per_class)
    rows = F.normalize(torch.randn(4, 6, generator=generator, dtype=torch.float64) + 0.4, dim=1)
    centres = torch.randn(6, 3 * per_class, generator=generator, dtype=torch.float64)
    how = Centres(per_class, gamma, columns=True)
    case = ProxyCase(rows, centres, torch.tensor([0, 1, 2, -1]), how, 20.0, spread=per_class < 100)
    assert_equals_the_dense_form(case.to(torch.float32).on(device), per_class if per_class > 100 else 1)


def test_the_spread_of_wide_centres(device: str) -> None:
    assert_equals_the_dense_form(make_case("wide")._replace(spread=True).to(torch.float32).on(device))


def test_centres_too_short_to_be_normalised(device: str) -> None:
    case = make_case("zero vectors").on(device)
    case.centres[3] *= 1e-14
    assert_equals_the_dense_form(case)


def test_the_first_of_equal_centres_wins(device: str) -> None:
    case = make_case("hard").on(device)
    case.centres.copy_(case.centres[:, ::4].repeat_interleave(4, dim=1))
    gradient = statistics_and_gradients(case, "cuda")["gradient of centres"].unflatten(1, (-1, 4))
    assert gradient[..., 0].any(dim=0).all()
    assert not gradient[..., 1:].any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["rows", "centres"])
@pytest.mark.parametrize("name", ["soft", "hard", "one centre a class", "of any length"])
def test_what_is_not_finite_shows(name: str, where: str, value: float, device: str) -> None:
    case = make_case(name).to(torch.float32).on(device)
    getattr(case, where)[3, 2] = value
    found = statistics_and_gradients(case, "cuda")
    spoilt = [where == "centres" or i == 3 for i in range(len(case.rows))]
    for statistic in ("others", "target", "total"):
        assert found[statistic].isnan().tolist() == spoilt
    if where == "rows":
        assert found["gradient of rows"][3].isnan().all()
        assert found["gradient of rows"][:3].isfinite().all()
    else:
        assert found["gradient of rows"].isnan().any(dim=1).all()


@pytest.mark.parametrize("name", ["soft, centres as rows", "many classes", "many samples"])
def test_two_runs_are_bitwise_equal(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated, the second run takes blocks and threads in the opposite order."""
    case = make_case(name).to(torch.float32).on(device)
    monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "0")
    first = statistics_and_gradients(case, "cuda")
    monkeypatch.setenv("FASTDML_EMULATION_REVERSE", "1")
    second = statistics_and_gradients(case, "cuda")
    assert all(torch.equal(first[what], second[what]) for what in first)


def test_strided_tensors(device: str) -> None:
    case = make_case("soft").to(torch.float32).on(device)

    def apart(values: Tensor) -> Tensor:
        strided = torch.stack([values, torch.zeros_like(values)], dim=-1)[..., 0]
        assert not strided.is_contiguous()
        return strided

    strided = case._replace(rows=apart(case.rows), centres=apart(case.centres), labels=apart(case.labels))
    assert all(
        torch.equal(found, packed)
        for some, other in [
            (FORWARD(*arguments(strided), True), FORWARD(*arguments(case), True)),
            (
                BACKWARD(*backward_arguments(strided), True, True),
                BACKWARD(*backward_arguments(case), True, True),
            ),
        ]
        for found, packed in zip(some, other, strict=True)
    )


@pytest.mark.parametrize("name", ["soft", "many samples"])
def test_gradients_that_nobody_needs_are_not_made(name: str, device: str) -> None:
    case = make_case(name).on(device)
    given = backward_arguments(case)
    both = BACKWARD(*given, True, True)
    rows, centres = BACKWARD(*given, True, False), BACKWARD(*given, False, True)
    assert torch.equal(rows[0], both[0])
    assert torch.equal(centres[1], both[1])
    for nothing in (rows[1], BACKWARD(*given, False, False)[1]):
        assert nothing.shape == (0, 0)
    for nothing in (centres[0], BACKWARD(*given, False, False)[0]):
        assert nothing.shape == (0, case.rows.shape[1])


@pytest.mark.parametrize("name", ["soft", "soft, centres as rows", "one sample"])
def test_operators_keep_torch_s_contract(name: str, device: str) -> None:
    case = make_case(name).to(torch.float32, centres=torch.bfloat16).on(device)
    torch.library.opcheck(FORWARD, (*arguments(case), case.spread))
    for needs in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(BACKWARD, (*backward_arguments(case), *needs))


def test_says_what_it_does_not_take(device: str) -> None:
    case = make_case("soft").to(torch.float32).on(device)
    rows, centres, labels, shares, per_class, *settings = arguments(case)
    with pytest.raises(RuntimeError, match="shares of classes have no cuda kernels"):
        FORWARD(rows, centres, labels, torch.ones(40, 30).to(device), per_class, *settings, True)
    with pytest.raises(RuntimeError, match="rows must be float32 or float64"):
        FORWARD(rows.half(), centres, labels, shares, per_class, *settings, True)
    with pytest.raises(RuntimeError, match="centres must be float64, float32, bfloat16 or float16"):
        FORWARD(rows, centres.long(), labels, shares, per_class, *settings, True)
    with pytest.raises(RuntimeError, match="per_class must divide the number of centres, 150, got 4"):
        FORWARD(rows, centres, labels, shares, 4, *settings, True)
    with pytest.raises(RuntimeError, match="rows and centres must not be empty, got 0 and 3600 numbers"):
        FORWARD(rows[:0], centres, labels[:0], shares, per_class, *settings, True)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("how", [Centres(5, 0.1, columns=True), Centres()], ids=["soft", "one centre"])
def test_blocks_of_their_real_size(how: Centres, dtype: torch.dtype) -> None:
    """Several blocks of samples and several chunks of classes."""
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(2500, 64, generator=generator, dtype=torch.float64) + 0.2, dim=1)
    centres = torch.randn(6000 * how.per_class, 64, generator=generator, dtype=torch.float64) + 0.2
    labels = torch.randint(len(centres) // how.per_class, (2500,), generator=generator)
    stored = centres.T.contiguous() if how.columns else centres
    case = ProxyCase(rows, stored, labels, how, 20.0, spread=how.per_class > 1)
    assert_equals_the_dense_form(case.to(dtype).on("cuda"))


@pytest.mark.usefixtures("gpu")
def test_a_captured_graph_repeats_the_step() -> None:
    """Which it could not if the host waited for the device."""
    generator = torch.Generator().manual_seed(1)
    case = make_case("many classes").to(torch.float32).on("cuda")

    def fill() -> None:
        case.rows.copy_(F.normalize(torch.randn(case.rows.shape, generator=generator), dim=1))
        case.centres.copy_(torch.randn(case.centres.shape, generator=generator))
        case.labels.copy_(torch.randint(700, case.labels.shape, generator=generator))

    def step() -> list[Tensor]:
        gradients = BACKWARD(*backward_arguments(case), True, True)
        return [*FORWARD(*arguments(case), True), *gradients]

    assert_replays(fill, step, 1e-6)
