"""The builder: what it compiles, where it keeps it, and how it fails."""

import ctypes
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sample_sources import write_sources

from fastdml.backends import extension
from fastdml.backends.extension import LIBRARY, MANIFEST, BuildError, Plan, compile, toolchain

ENSURE = """
import sys
from pathlib import Path
from importlib import util
folder = Path(sys.argv[1])
spec = util.spec_from_file_location(
    "builder", folder / "__init__.py", submodule_search_locations=[str(folder)]
)
builder = sys.modules["builder"] = util.module_from_spec(spec)
spec.loader.exec_module(builder)
plan = builder.plan_part("cpu", Path(sys.argv[2]), builder.find_torch(), builder.find_compiler())
print("ready", flush=True)
print("built" if builder.ensure(plan)[1] else "found", flush=True)
"""


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    return write_sources(tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own, and no wish about building."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FASTDML_CACHE", str(folder))
    monkeypatch.delenv("FASTDML_BUILD_EXT", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return folder


def plan_of(csrc: Path) -> Plan:
    torch = extension.find_torch()
    assert torch is not None
    return extension.plan_part("cpu", csrc, torch, extension.find_compiler())


def ensure_elsewhere(csrc: Path) -> subprocess.Popen[str]:
    """Another process that wants the same build; it needs no torch, only finds it."""
    folder = Path(extension.__file__).parent
    command = [sys.executable, "-c", ENSURE, str(folder), str(csrc)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def slow_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A compiler that logs its compilations, and hangs in them while the second file exists."""
    log, hang = folder / "compilations", folder / "hang"
    script = folder / "slow-c++"
    compilation = f'echo "$*" >>{log}; [ -e {hang} ] && sleep 60'
    script.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) {compilation};; esac\nexec c++ "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return log, hang


@pytest.mark.parametrize("with_ninja", [True, False])
def test_builds_every_instruction_set_once(
    csrc: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, with_ninja: bool
) -> None:
    if not with_ninja:
        monkeypatch.setattr(compile, "_find_ninja", lambda: None)
    plan = plan_of(csrc)
    folder, built = extension.ensure(plan)
    assert built
    assert folder.parent == cache
    library = ctypes.CDLL(str(folder / LIBRARY["cpu"]))
    assert library.answer() == 42
    assert library.answer_baseline() == 0
    if platform.machine() == "x86_64":
        assert library.answer_avx2() == 2
        assert library.answer_avx512() == 512
    record = json.loads((folder / MANIFEST["cpu"]).read_text())
    assert record["sources"] == extension.source_hash(csrc)
    assert record["compiler"] == extension.find_compiler().version
    assert record["products"] == [LIBRARY["cpu"]]
    assert extension.ensure(plan_of(csrc)) == (folder, False)
    assert {path.name for path in cache.iterdir()} == {plan.key, f"{plan.key}.lock"}


def test_a_changed_source_is_another_build(csrc: Path, cache: Path) -> None:
    before = plan_of(csrc)
    (csrc / "cpu" / "sample.h").write_text("#define SAMPLE 1\n")
    after = plan_of(csrc)
    assert before.key != after.key
    torch = extension.find_torch()
    assert torch is not None
    folder, _ = extension.ensure(after)
    assert extension.cached("cpu", csrc, torch) == folder
    (csrc / "cpu" / "sample.h").unlink()
    assert extension.cached("cpu", csrc, torch) is None


def test_a_build_is_found_where_the_compiler_is_gone(
    csrc: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = extension.ensure(plan_of(csrc))
    torch = extension.find_torch()
    assert torch is not None
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(BuildError, match="/bin/false"):
        extension.find_compiler()
    assert extension.cached("cpu", csrc, torch) == folder


def test_two_processes_build_once(
    csrc: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = slow_compiler(tmp_path, monkeypatch)
    processes = [ensure_elsewhere(csrc) for _ in range(2)]
    answers = sorted(process.communicate(timeout=60)[0].split()[-1] for process in processes)
    assert answers == ["built", "found"]
    compilations = log.read_text().splitlines()
    assert len(compilations) == len([step for step in plan_of(csrc).steps if step.depfile])


def test_a_killed_builder_blocks_nobody(
    csrc: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, hang = slow_compiler(tmp_path, monkeypatch)
    hang.touch()
    process = ensure_elsewhere(csrc)
    deadline = time.monotonic() + 30
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert log.exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    hang.unlink()
    folder, built = extension.ensure(plan_of(csrc))
    assert built
    assert (folder / LIBRARY["cpu"]).is_file()


def test_an_error_in_the_sources_is_quoted_logged_and_remembered(
    csrc: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (csrc / "library.cpp").write_text("#error this library is broken\n")
    plan = plan_of(csrc)
    with pytest.raises(BuildError, match="this library is broken"):
        extension.ensure(plan)
    log = cache / f"{plan.key}.log"
    assert "this library is broken" in log.read_text()
    with pytest.raises(BuildError, match=re.escape(f"the last build failed, see {log}")):
        extension.ensure(plan)
    monkeypatch.setenv("FASTDML_BUILD_EXT", "1")
    with pytest.raises(BuildError, match="this library is broken"):
        extension.ensure(plan)
    assert not (cache / plan.key).exists()


def test_a_cache_that_cannot_be_written_is_named(
    csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a-file"
    blocked.touch()
    monkeypatch.setenv("FASTDML_CACHE", str(blocked / "cache"))
    with pytest.raises(BuildError, match=re.escape(f"the cache folder {blocked / 'cache'} cannot be used")):
        extension.ensure(plan_of(csrc))


def test_torch_is_found_where_the_path_hides_it() -> None:
    folder = Path(extension.__file__).parent
    hide = "import sys; sys.path = [path for path in sys.path if 'site-packages' not in path]\n"
    code = hide + ENSURE.split("plan =")[0] + "print(builder.find_torch().version)"
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    torch = extension.find_torch()
    assert torch is not None
    assert done.stdout.strip() == torch.version


def test_cache_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDML_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert extension.cache_root() == Path("/one")
    monkeypatch.delenv("FASTDML_CACHE")
    assert extension.cache_root() == Path("/two/fastdml")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/three")
    assert extension.cache_root() == Path("/three/.cache/fastdml")


def test_build_mode_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDML_BUILD_EXT", "maybe")
    with pytest.raises(ValueError, match="FASTDML_BUILD_EXT must be auto, 0 or 1, got 'maybe'"):
        extension.build_mode()


def test_cuda_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"--version": "release 12.4, V12.4.131", "--list-gpu-code": "sm_80\nsm_89\nsm_90\n"}
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(toolchain, "_output", lambda command: answers.get(command[-1]))
    monkeypatch.setattr(toolchain, "_local_architectures", lambda: ())
    monkeypatch.delenv("FASTDML_CUDA_ARCH", raising=False)
    assert extension.find_cuda().architectures == ("80", "90")
    monkeypatch.setenv("FASTDML_CUDA_ARCH", "8.9;9.0a")
    assert extension.find_cuda().architectures == ("89", "90a")
    monkeypatch.setenv("FASTDML_CUDA_ARCH", "120")
    cuda = extension.find_cuda()
    assert cuda.architectures == ("90",)
    assert cuda.gencode[-1] == "-gencode=arch=compute_90,code=compute_90"
    monkeypatch.setenv("FASTDML_CUDA_ARCH", "hopper")
    with pytest.raises(BuildError, match="FASTDML_CUDA_ARCH must list architectures"):
        extension.find_cuda()
