"""`import fastdml` needs torch alone, and does no work."""

import os
import subprocess
import sys
from pathlib import Path

import fastdml

LATER = ("triton", "numpy.random", "rich", "typer", "matplotlib", "PIL", "fastdml.losses", "fastdml.cli")


def test_import_is_light_and_builds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport fastdml\n"
        "print(*(set(sys.modules) - before))\n"
        "import fastdml.triton_kernels as kernels\nprint(kernels.__name__)"
    )
    environment = {**os.environ, "FASTDML_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    new, name = done.stdout.splitlines()
    imported = set(new.split())
    assert {module for module in imported if module.startswith("fastdml")} == {"fastdml"}
    assert "torch" not in imported
    assert not imported.intersection(LATER)
    roots = {module.split(".")[0] for module in imported if not module.startswith("_sysconfigdata")}
    assert roots <= {"fastdml", *sys.stdlib_module_names}
    assert name == "fastdml.triton_kernels"
    assert not (tmp_path / "cache").exists()


def test_data_needs_no_package_before_it_is_used() -> None:
    code = "import sys, fastdml.data\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"PIL", "kornia", "scipy", "typer", "rich"}.intersection(done.stdout.split())
    assert all(getattr(fastdml.data, name) is not None for name in fastdml.data.__all__)
    assert fastdml.data.load_dataset.__module__ == "fastdml.data.layouts"


def test_submodules_come_when_they_are_used() -> None:
    assert fastdml.losses.MultiSimilarityLoss is not None
    assert fastdml.functional.multi_similarity is not None
    assert set(fastdml.__all__) <= set(dir(fastdml))
