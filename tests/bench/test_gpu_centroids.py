"""What bench/gpu.sh does of the centroid engine, as far as it shows without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.gpu import behaviour, centroid_accuracy, centroid_fat, centroid_overflow
from bench.gpu.kernels import own_kernels
from bench.gpu.proof import ENGINES, Setting, SkippedError, run_checks
from bench.gpu.prove import NAMES, find_checks
from bench.gpu.subjects import SUBJECTS
from bench.workload import Workload
from fastdml.backends import registry
from fastdml.losses import centroids, fat

ROOT = Path(__file__).resolve().parents[2]
SETTING = Setting("cpu", "centroid", True)
needs_cpu_kernels = pytest.mark.skipif(
    registry.reason_against("cpu") is not None, reason="no native kernels for the CPU here"
)
# Pieces so short that so small a batch has segments of several.
LAUNCHES = """
import functools
import triton.runtime.interpreter as interpreter
from bench.gpu import kernels
from fastdml.triton_kernels import configs
run = interpreter.InterpretedFunction.run
def told(self, *args, **kwargs):
    print("launched", self.fn.__name__)
    return run(self, *args, **kwargs)
interpreter.InterpretedFunction.run = told
configs.SEGMENT_PIECE = 16
kernels.BATCHES = ((9, 16),)
kernels.run_centroids = functools.partial(kernels.run_centroids, classes=12)
kernels.run_small("cpu", "triton", ["float32"], ["centroid"])
"""


def test_the_small_batches_launch_every_kernel_of_the_centroid_engine() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", LAUNCHES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    sources = "".join(path.read_text() for path in (ROOT / "triton_kernels").glob("centroid_*.py"))
    wanted = {name for name in own_kernels("triton") if f"def {name}(" in sources}
    assert len(wanted) >= 6
    assert set(re.findall(r"launched (\w+)", done.stdout)) == wanted | {"squared_lengths_kernel"}


@needs_cpu_kernels
@pytest.mark.parametrize("check", ["repeat", "autocast", "accuracy", "overflow"])
def test_the_checks_pass_on_a_cpu(check: str) -> None:
    found = run_checks(find_checks([check], "centroid"), SETTING, ["cpu"])
    assert len(found) > 3
    assert [f"{one.case}: {one.detail}" for one in found if one.status != "passed"] == []


def test_every_engine_has_all_checks_and_its_own_accuracy() -> None:
    found = [find_checks(NAMES, engine) for engine in ENGINES]
    assert all(list(checks) == list(NAMES) for checks in found)
    for name in NAMES:
        own = len({checks[name] for checks in found})
        assert own == (len(ENGINES) if name in ("accuracy", "overflow") else 1), name


def test_what_reads_numbers_back_is_neither_captured_nor_compiled() -> None:
    cases = dict(behaviour.compiled(SETTING, "blocked"))
    assert len(cases) == len(SUBJECTS["centroid"])
    for name, run in cases.items():
        if name.startswith("FAT"):
            with pytest.raises(SkippedError, match=r"reads the (number of classes|labels) back"):
                run()


def test_the_subjects_are_those_of_any_scale_and_have_hinges_on_both_sides() -> None:
    work = Workload(160, 40)
    for name, make in SUBJECTS["centroid"].items():
        subject = make(work)
        first = subject.step()
        assert torch.equal(subject.loss(2 * subject.leaves[0]), first[0]), name
        assert all(gradient.abs().max() > 0 for gradient in first[1:]), name
        subject.write([leaf.detach().flip(0) for leaf in subject.leaves])
        assert not torch.equal(subject.step()[0], first[0]), name


def test_dense_fat_is_that_of_the_library() -> None:
    for negatives in centroid_fat.NEGATIVES:
        rows, labels = centroid_fat._undisputed_batch(SETTING, negatives, 24, torch.float32, torch.float32)
        dense = centroid_fat.dense_fat(rows.double(), labels, negatives, torch.float64)
        hinges, loss = centroid_fat._loss(rows.double(), labels, negatives, "reference")
        torch.testing.assert_close(dense.hinges, hinges)
        torch.testing.assert_close(dense.hinges.mean() + dense.radius, loss)
        assert dense.closest > centroid_fat.UNDISPUTED / 10


def test_limits_are_beside_no_distance_and_amid_them() -> None:
    for name, make in centroid_accuracy.batches(SETTING).items():
        batch = make().cast(torch.float32)
        limits = centroid_accuracy.undisputed_limits(batch, torch.float32)
        apart = torch.cdist(batch.rows.double(), batch.points.double())
        assert (apart - limits[:, None]).abs().min() > 1e-5, name
        within = (apart < limits[:, None]).double().mean(dim=1)
        assert within.min() > 0.2, name
        assert within.max() < 0.8, name


def spoil(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    """Changes what an operator gives, but neither on the dense form nor in float64."""
    right = getattr(module, name)

    def wrong(rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = right(rows, *args, **kwargs)
        exact = rows.dtype == torch.float64 or registry.asked_backend() == "reference"
        return found if exact else change(found)

    monkeypatch.setattr(module, name, wrong)


def failures(check: Callable[..., Any], *words: str) -> list[str]:
    """What the cases that are named so say; those that pass are left out."""
    cases = {name: run for name, run in check(SETTING, "blocked") if all(word in name for word in words)}
    assert cases
    said = []
    for case in cases.values():
        try:
            case()
        except AssertionError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize(
    ("operator", "case"),
    [
        ("class_sums", "sums and lists"),
        ("listed_distances", "sums and lists"),
        ("hinge_sums", "hinges, float32"),
    ],
)
def test_the_accuracy_check_finds_what_is_a_little_off(
    monkeypatch: pytest.MonkeyPatch, operator: str, case: str
) -> None:
    named = ("samples 33", case)
    assert failures(centroid_accuracy.centroid_accuracy, *named) == []
    spoil(monkeypatch, centroid_accuracy, operator, lambda values: values * (1 + 1e-5))
    assert "off by" in failures(centroid_accuracy.centroid_accuracy, *named)[0]


def test_the_accuracy_check_finds_what_is_not_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(found: Tensor) -> Tensor:
        return torch.cat([found[:, 1:], found[:, :1]], dim=1)

    named = ("samples 33", "nearest, float32")
    assert failures(centroid_accuracy.centroid_accuracy, *named) == []
    with monkeypatch.context() as changed:
        spoil(changed, centroid_accuracy, "nearest_others", swapped)
        assert "distances off by" in failures(centroid_accuracy.centroid_accuracy, *named)[0]
    spoil(monkeypatch, centroid_accuracy, "nearest_others", lambda found: found[:, :1].expand_as(found))
    assert failures(centroid_accuracy.centroid_accuracy, *named) == ["a point named twice"]


@pytest.mark.parametrize(
    ("negatives", "operator"),
    [
        ("all", "hinge_sums"),
        ("mean", "hinge_sums"),
        ("hardest:5", "listed_distances"),
        ("batch:5", "class_sums"),
    ],
)
def test_the_accuracy_check_finds_fat_a_little_off(
    monkeypatch: pytest.MonkeyPatch, negatives: str, operator: str
) -> None:
    def off(values: Tensor) -> Tensor:
        uneven = torch.linspace(0, 1e-4, values.numel()).view(values.shape)
        return values + uneven * values.detach().abs().amax()

    module = centroids if operator == "class_sums" else fat
    named = (f"FAT {negatives}", "float32")
    assert failures(centroid_accuracy.centroid_accuracy, *named) == []
    spoil(monkeypatch, module, operator, off)
    assert "off by" in failures(centroid_accuracy.centroid_accuracy, *named)[0]


@pytest.mark.parametrize(
    ("operator", "case"),
    [
        ("hinge_sums", "B D"),
        ("hinge_sums", "P D"),
        ("hinge_sums", "B P"),
        ("nearest_others", "B D"),
        ("nearest_others", "B P"),
        ("listed_distances", "B S"),
        ("class_sums", "sums, C D"),
        ("class_sums", "sums, N D"),
    ],
)
def test_the_overflow_check_finds_wrong_last_rows(
    monkeypatch: pytest.MonkeyPatch, operator: str, case: str
) -> None:
    def off(values: Tensor) -> Tensor:
        half = len(values) // 2
        return torch.cat([values[:half], values[: len(values) - half]])  # as if later indices had overflowed

    check = centroid_overflow.centroid_overflow
    assert failures(check, case) == []
    spoil(monkeypatch, centroid_overflow, operator, off)
    assert len(failures(check, case)) == sum(case in name for name, _ in check(SETTING, "blocked"))
