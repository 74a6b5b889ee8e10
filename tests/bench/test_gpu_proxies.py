"""What bench/gpu.sh does of the proxy engine, as far as it shows without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.gpu import proxy_accuracy
from bench.gpu.choices import in_place
from bench.gpu.kernels import own_kernels
from bench.gpu.proof import Setting, require_as_accurate, run_checks
from bench.gpu.prove import find_checks
from bench.gpu.proxy_choices import CHOICES
from bench.gpu.proxy_classes import contestants
from bench.gpu.subjects import SUBJECTS
from bench.gpu.timings import Timings
from bench.interleaved import TINY
from bench.results import Results
from bench.turns import TrainingTurn
from bench.workload import Workload
from fastdml.backends import registry
from fastdml.rules import ProxyStatistics

ROOT = Path(__file__).resolve().parents[2]
needs_cpu_kernels = pytest.mark.skipif(
    registry.reason_against("cpu") is not None, reason="no native kernels for the CPU here"
)
LAUNCHES = """
import triton.runtime.interpreter as interpreter
from bench.gpu import kernels
run = interpreter.InterpretedFunction.run
def told(self, *args, **kwargs):
    print("launched", self.fn.__name__)
    return run(self, *args, **kwargs)
interpreter.InterpretedFunction.run = told
kernels.BATCHES = ((9, 16),)
kernels.run_small("cpu", "triton", ["float32"], ["proxy"])
"""


def test_the_small_batches_launch_every_kernel_of_the_proxy_engine() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", LAUNCHES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    sources = "".join(path.read_text() for path in (ROOT / "triton_kernels").glob("proxy_*.py"))
    wanted = {name for name in own_kernels("triton") if f"def {name}(" in sources}
    assert len(wanted) >= 6
    assert set(re.findall(r"launched (\w+)", done.stdout)) == wanted


@needs_cpu_kernels
@pytest.mark.parametrize("check", ["repeat", "autocast", "accuracy", "overflow"])
def test_the_checks_pass_on_a_cpu(check: str) -> None:
    found = run_checks(find_checks([check], "proxy"), Setting("cpu", "proxy", True), ["cpu"])
    assert len(found) > 3
    assert [f"{one.case}: {one.detail}" for one in found if one.status != "passed"] == []


@needs_cpu_kernels
def test_what_needs_a_gpu_is_skipped_for_every_subject() -> None:
    for engine, subjects in SUBJECTS.items():
        checks = find_checks(["stream", "graph", "sync"], engine)
        found = run_checks(checks, Setting("cpu", engine, True), ["cpu"])
        assert {one.status for one in found} == {"skipped"}
        assert all(sum(one.case.startswith(name) for one in found) >= 3 for name in subjects)


def test_a_subject_is_differentiated_by_its_centres_too() -> None:
    work = Workload(32, 8)
    for name, make in SUBJECTS["proxy"].items():
        subject = make(work)
        loss, of_rows, of_centres = subject.step()
        subject.write([leaf.detach().flip(0) for leaf in subject.leaves])
        other = subject.step()
        assert of_rows.shape == (32, 8), name
        assert of_centres.abs().max() > 0, name
        assert not torch.equal(loss, other[0]), name


def test_an_error_beyond_that_of_plain_pytorch_is_found() -> None:
    truth = {"loss": torch.tensor([1.0, -torch.inf], dtype=torch.float64)}
    plain = {"loss": torch.tensor([1.0 + 1e-4, -torch.inf])}
    near = {"loss": torch.tensor([1.0 - 1.5e-4, -torch.inf])}
    assert require_as_accurate(near, plain, truth) == "error at 75% of what is allowed"
    for wrong in ([1.0 - 3e-4, -torch.inf], [torch.nan, -torch.inf], [1.0, 0.0], [1.0, torch.nan]):
        with pytest.raises(AssertionError, match="loss"):
            require_as_accurate({"loss": torch.tensor(wrong)}, plain, truth)


def test_the_accuracy_check_finds_statistics_that_are_a_little_off(monkeypatch: pytest.MonkeyPatch) -> None:
    case = dict(proxy_accuracy.proxy_accuracy(Setting("cpu", "proxy", True), "blocked"))[
        "samples 33, float32 products"
    ]
    case()
    engine = proxy_accuracy._engine

    def off(backend: str, product: torch.dtype | None = None) -> proxy_accuracy.Compute:
        compute, factor = engine(backend, product), 1.0 if backend == "reference" else 1.0 + 1e-5
        return lambda batch: ProxyStatistics(*(value * factor for value in compute(batch)))

    monkeypatch.setattr(proxy_accuracy, "_engine", off)
    with pytest.raises(AssertionError, match="off by"):
        case()


def test_rounding_before_products_is_judged_more_loosely_than_none() -> None:
    batch = proxy_accuracy.batches(Setting("cpu", "proxy", True))["2 centres, soft"]()
    batch = batch.cast(torch.float32, torch.float32)._replace(spread=False)
    found = {
        dtype: proxy_accuracy._gather(batch, partial(proxy_accuracy._dense, product=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    exact = proxy_accuracy._gather(batch, proxy_accuracy._engine("reference"))
    for name, value in exact.items():
        torch.testing.assert_close(found[torch.float32][name], value, msg=name)
        if value.numel():
            error = (found[torch.bfloat16][name] - value).abs().max() / value.abs().max()
            assert 1e-5 < error < 0.1, name


@needs_cpu_kernels
def test_dense_and_fused_agree_over_the_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    work = Workload(32, 8)
    embeddings, labels = work.make()
    made = {one.name: one.make() for one in contestants(3, "cpu")}
    values = [loss(embeddings, labels) for loss in made.values()]
    assert len(values) == 2
    torch.testing.assert_close(values[0], values[1])
    timings = Timings("soft_triple_classes", "cpu", TINY, path)
    medians = timings.measure(
        work, {name: partial(TrainingTurn, loss, work.make()) for name, loss in made.items()}
    )
    rows = Results.load(path, "soft_triple_classes").rows
    assert {row.provider for row in rows} == set(made) == set(medians)
    assert all(row.status == "ok" and row.p50 for row in rows)


@pytest.mark.parametrize("width", [64, 512])
@pytest.mark.parametrize("loss", CHOICES)
def test_the_tiles_to_be_measured_fit_an_h100_unspilled(loss: str, width: int) -> None:
    variants = pytest.importorskip("fastdml.triton_kernels.variants")
    per_class, soft = (10, True) if loss == "soft-triple" else (1, False)
    for name, constants in CHOICES[loss][1].items():
        if not ({"PROXY_SEVERAL", "PROXY_ONE", "PROXY_WEIGHTS"} & set(constants)):
            continue
        with in_place(constants):
            made = list(variants.proxy_variants("sm_90", torch.bfloat16, width, per_class, soft))
        for kernel in made:
            if kernel.name == ("proxy_weights" if "PROXY_WEIGHTS" in constants else "proxy_sums"):
                found = variants.compile_variant(kernel, "sm_90")
                assert found.stack == 0, f"{name}: {kernel.name} spills registers"
                assert found.shared <= variants.SHARED_MEMORY["sm_90"], f"{name}: {kernel.name}"
