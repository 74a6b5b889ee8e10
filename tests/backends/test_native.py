"""Loading the native libraries: which ones are taken, and what is said where there are none."""

import json
import warnings
from pathlib import Path

import pytest
import torch

import fastdml
from fastdml import functional
from fastdml.backends import extension, native, registry, select
from fastdml.backends.extension import MANIFEST, BuildError


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has loaded nothing, on a machine where nothing is installed or cached."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("FASTDML_CACHE", str(cache))
    monkeypatch.delenv("FASTDML_BUILD_EXT", raising=False)
    monkeypatch.setattr(native, "INSTALLED", tmp_path / "installed")
    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setattr(native, "_module", None)
    monkeypatch.setattr(registry, "_reasons", {"reference": None})
    monkeypatch.setattr(registry, "_warned", set())
    monkeypatch.setattr(registry, "_asked", None)
    return cache


def loss_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(24, 16, requires_grad=True)
    loss = functional.multi_similarity(x, torch.arange(24) // 4, epsilon=0.1)
    (gradient,) = torch.autograd.grad(loss, x)
    return loss.detach(), gradient


def test_without_a_compiler_the_reference_runs_and_says_so_once(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    message = "no native CPU backend here, losses run in plain PyTorch: no working C\\+\\+ compiler in CXX"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        loss, gradient = loss_and_gradient()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, _ = loss_and_gradient()
    with fastdml.use_backend("reference"):
        expected, expected_gradient = loss_and_gradient()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert native.reason("cpu") == "no working C++ compiler in CXX: /bin/false --version fails"
    assert "cpu" not in fastdml.available_backends()
    assert not fresh.exists()


def test_without_a_compiler_the_cpu_backend_is_refused_when_asked_for(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    with (
        fastdml.use_backend("cpu"),
        pytest.raises(
            fastdml.BackendError, match=r"/bin/false --version fails\. What can: blocked, reference"
        ),
    ):
        loss_and_gradient()


def test_building_can_be_forbidden(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDML_BUILD_EXT", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice = select("cpu", torch.float32)
    assert choice.name == "blocked"
    assert "FASTDML_BUILD_EXT=0 forbids" in choice.reason
    assert not fresh.exists()


def test_building_can_be_demanded(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDML_BUILD_EXT", "1")
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(BuildError, match="no working C\\+\\+ compiler"):
        native.load("cpu")


def test_first_use_builds_and_the_next_process_finds_it(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    csrc = tmp_path / "csrc"
    (csrc / "cpu").mkdir(parents=True)
    (csrc / "library.cpp").write_text("int sample() { return 1; }\n")
    monkeypatch.setattr(native, "sources", lambda: csrc)
    assert not fresh.exists()
    first = native.load("cpu")
    assert (first.reason, first.origin) == (None, "built now")
    assert first.folder is not None
    assert first.folder.parent == fresh
    assert caplog.messages == [f"fastdml: building the cpu extension, once, in {fresh}"]
    native._loaded.clear()
    second = native.load("cpu")
    assert (second.folder, second.origin, second.manifest) == (first.folder, "cached", first.manifest)
    assert len(caplog.messages) == 1


def test_an_installed_library_of_other_sources_is_not_taken(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDML_BUILD_EXT", "0")
    csrc = native.sources()
    assert csrc is not None
    native.INSTALLED.mkdir()
    record = native.INSTALLED / MANIFEST["cpu"]
    record.write_text(json.dumps({"sources": "0000"}))
    assert native.reason("cpu") == "not built, and FASTDML_BUILD_EXT=0 forbids to"
    native._loaded.clear()
    record.write_text(json.dumps({"sources": extension.source_hash(csrc)}))
    assert str(native.reason("cpu")).startswith("the installed library does not load: ")


def test_cuda_needs_a_cuda_build_of_torch(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert native.reason("cuda") == f"torch {torch.__version__} is not a CUDA build"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    native._loaded.clear()
    assert native.reason("cuda") == "no CUDA device"
    assert not fresh.exists()


def test_the_module_tells_what_was_built() -> None:
    module = native.module()
    if module is None:
        pytest.skip(f"no native extension here: {native.reason('cpu')}")
    record = native.load("cpu").manifest
    info = module.build_info()
    assert info["compiler"] == record["compiler"]
    assert info["torch"] == record["torch"]
    assert info["sources"] == record["sources"]
    assert module.instruction_set() in record["isas"]
    features = module.cpu_features()
    if module.instruction_set() == "avx2":
        assert features["avx2"]
        assert features["fma"]
