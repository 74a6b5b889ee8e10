"""What is packed, with and without a compiler; a sample that compiles fast stands in for the C++ sources."""

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from sample_sources import write_sources

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
NATIVE = (".so", ".dylib", ".pyd")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's files round the sample, and none that a build left among them."""
    folder = write_sources(tmp_path).parent
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    left_out = shutil.ignore_patterns("__pycache__", "lib", "*.so", "*.dylib")
    for name in ("fastdml", "recipes", "triton_kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    return folder


def make_wheel(project: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Runs pip in the project with an environment of its own; what it printed, and the wheels."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "-v",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "out",
    ]
    done = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done, sorted((project / "out").glob("*.whl"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_pure_wheel_holds_everything_but_libraries(project: Path, tmp_path: Path) -> None:
    done, wheels = make_wheel(project, FASTDML_BUILD_EXT="0")
    assert done.returncode == 0, done.stdout
    assert [wheel.name for wheel in wheels] == ["fastdml-0.1.0-py3-none-any.whl"]
    names = names_in(wheels[0])
    assert not [name for name in names if name.endswith(NATIVE)]
    packaged = {
        "fastdml/" + path.relative_to(ROOT / "fastdml").as_posix()
        for path in (ROOT / "fastdml").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.parent.name != "lib"
    }
    assert {name for name in packaged if not name.endswith(NATIVE)} <= names
    kernels = {f"fastdml/{path.relative_to(ROOT)}" for path in (ROOT / "triton_kernels").rglob("*.py")}
    assert kernels <= names
    assert {"fastdml/csrc/library.cpp", "fastdml/csrc/cpu/sample_kernels.cpp"} <= names

    site = tmp_path / "site"
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(site)
    facts = Parser().parsestr((site / "fastdml-0.1.0.dist-info" / "METADATA").read_text())
    requirements = facts.get_all("Requires-Dist") or []
    assert [text for text in requirements if "extra ==" not in text] == ["torch>=2.10"]
    assert facts["License-Expression"] == "Apache-2.0"
    code = (
        "import fastdml.triton_kernels as kernels\nfrom fastdml.backends import native\n"
        "print(kernels.__file__, native.sources())"
    )
    run = [sys.executable, "-c", code]
    where = subprocess.run(
        run, cwd=tmp_path / "out", env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert where.stdout.split() == [
        str(site / "fastdml" / "triton_kernels" / "__init__.py"),
        str(site / "fastdml" / "csrc"),
    ], where.stderr


def test_platform_wheel_holds_the_libraries(project: Path) -> None:
    done, wheels = make_wheel(project, FASTDML_BUILD_EXT="1")
    assert done.returncode == 0, done.stdout
    (wheel,) = wheels
    assert not wheel.name.endswith("-none-any.whl")
    assert f"cp{sys.version_info.major}{sys.version_info.minor}" in wheel.name
    names = names_in(wheel)
    assert "fastdml/lib/build_cpu.json" in names
    assert {name for name in names if name.endswith(NATIVE)} == {"fastdml/lib/libfastdml_cpu.so"}
    assert "fastdml/csrc/library.cpp" in names
    assert "fastdml: native extension built by" in done.stdout


@pytest.mark.parametrize("broken", ["compiler", "sources"])
def test_what_cannot_be_built_makes_a_pure_wheel_and_says_why(project: Path, broken: str) -> None:
    environment = {"FASTDML_BUILD_EXT": "auto"}
    if broken == "compiler":
        environment["CXX"] = "/bin/false"
        reason = "no working C++ compiler in CXX: /bin/false --version fails"
    else:
        (project / "csrc" / "library.cpp").write_text("#error this library is broken\n")
        reason = "compiling failed, see "
    done, wheels = make_wheel(project, **environment)
    assert done.returncode == 0, done.stdout
    assert [wheel.name for wheel in wheels] == ["fastdml-0.1.0-py3-none-any.whl"]
    assert not [name for name in names_in(wheels[0]) if name.endswith(NATIVE)]
    said = [line.strip() for line in done.stdout.splitlines() if "no native extension" in line]
    assert len(said) == 1
    assert said[0].startswith(f"fastdml: no native extension, a pure package is made: {reason}")


def test_a_demanded_build_fails_with_the_reason(project: Path) -> None:
    done, wheels = make_wheel(project, FASTDML_BUILD_EXT="1", CXX="/bin/false")
    assert done.returncode != 0
    assert wheels == []
    assert (
        "FASTDML_BUILD_EXT=1, and no working C++ compiler in CXX: /bin/false --version fails" in done.stdout
    )
