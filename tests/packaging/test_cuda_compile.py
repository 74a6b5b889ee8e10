"""Every source under csrc/cuda compiles, against the headers of whichever torch is here; no GPU is needed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fastdml.backends import extension, native

# Kept from run to run: a source that has not changed is not compiled again.
WORK = Path(__file__).resolve().parents[2] / "build" / "cuda-check"
# Optimising takes half of the time, and finds no error that is not found without.
QUICK = ("-O0", "-Xcicc=-O1", "-Xptxas=-O1")


def test_every_cuda_source_compiles() -> None:
    if extension.find_nvcc() is None:
        pytest.skip("nvcc not found in CUDA_HOME, CUDA_PATH or PATH")
    csrc, torch = native.sources(), extension.find_torch()
    assert csrc is not None
    assert torch is not None
    compiler, cuda = extension.find_compiler(), extension.find_cuda(("90",))
    shipped = extension.cuda_objects(csrc, torch, compiler, cuda).values()
    if not shipped:
        pytest.skip("there are no CUDA sources")
    steps = [
        replace(step, command=(*(word for word in step.command if word != "-O3"), *QUICK)) for step in shipped
    ]
    WORK.mkdir(parents=True, exist_ok=True)
    extension.compile_objects(steps, WORK)
    for step in steps:
        assert (WORK / step.output).stat().st_size > 0
    log = (WORK / "build.log").read_text()
    if "warning" in log:
        shutil.rmtree(WORK)  # else the next run would find nothing to compile, and nothing to warn about
    assert "warning" not in log
