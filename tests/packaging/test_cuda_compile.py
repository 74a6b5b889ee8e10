"""Every source under csrc/cuda compiles, against the headers of whichever torch is here; no GPU is needed."""

from pathlib import Path

import pytest

from fastdml.backends import extension, native


def test_every_cuda_source_compiles(tmp_path: Path) -> None:
    if extension.find_nvcc() is None:
        pytest.skip("nvcc not found in CUDA_HOME, CUDA_PATH or PATH")
    csrc, torch = native.sources(), extension.find_torch()
    assert csrc is not None
    assert torch is not None
    steps = extension.cuda_objects(csrc, torch, extension.find_compiler(), extension.find_cuda(("90",)))
    if not steps:
        pytest.skip("there are no CUDA sources")
    extension.compile_objects(steps.values(), tmp_path)
    for step in steps.values():
        assert (tmp_path / step.output).stat().st_size > 0
    assert "warning" not in (tmp_path / "build.log").read_text()
