"""Builds the package, with the native extension where a compiler and torch are found (FASTDML_BUILD_EXT).

Torch is looked for in the environment that is installed into, never required: without it, or without a
compiler, a pure wheel is made, and the extension is built on first use.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
WORK = ROOT / "build" / "native"


def load_extension() -> ModuleType:
    """fastdml.backends.extension by its path: importing fastdml itself would need torch."""
    folder = ROOT / "fastdml" / "backends" / "extension"
    spec = importlib.util.spec_from_file_location(
        "fastdml_extension", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


extension = load_extension()


class Native:
    """The native libraries of this build: compiled once, whichever command asks first."""

    folder: Path | None = None

    def __init__(self) -> None:
        self.wanted = extension.build_mode() != "0"

    def compile(self) -> Path | None:
        """The folder with what was built, or None for a pure wheel; raises where FASTDML_BUILD_EXT=1."""
        if self.wanted and self.folder is None:
            try:
                self.folder = self._compile()
            except extension.BuildError as error:
                if extension.build_mode() == "1":
                    raise SystemExit(f"fastdml: FASTDML_BUILD_EXT=1, and {error}") from None
                print(f"fastdml: no native extension, a pure package is made: {error}", flush=True)
                self.wanted = False
        return self.folder

    def _compile(self) -> Path:
        torch = extension.find_torch()
        if torch is None:
            raise extension.BuildError("torch is not installed where this is installed into")
        compiler = extension.find_compiler()
        product = WORK / "product"
        shutil.rmtree(product, ignore_errors=True)
        plan = extension.plan_part("cpu", ROOT / "csrc", torch, compiler)
        extension.build(plan, WORK / "cpu", product)
        if torch.cuda is not None:
            self._compile_cuda(torch, compiler, product)
        print(f"fastdml: native extension built by {compiler.version}, torch {torch.version}", flush=True)
        return product

    def _compile_cuda(self, torch: Any, compiler: Any, product: Path) -> None:
        try:
            cuda = extension.find_cuda()
        except extension.BuildError as error:
            # Triton's kernels are enough; a compiler that is there and fails is another matter.
            print(f"fastdml: no CUDA library: {error}", flush=True)
            return
        try:
            plan = extension.plan_part("cuda", ROOT / "csrc", torch, compiler, cuda)
            extension.build(plan, WORK / "cuda", product)
        except extension.BuildError as error:
            if extension.build_mode() == "1":
                raise
            print(f"fastdml: no CUDA library: {error}", flush=True)


native = Native()


class BuildNative(build_ext):
    """Puts the libraries into fastdml/lib and the module `_C` into fastdml/."""

    def run(self) -> None:
        folder = native.compile()
        if folder is None:
            return
        package = ROOT / "fastdml" if self.inplace else Path(self.build_lib) / "fastdml"
        for built, target in _layout(folder, package):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Moved into place: a process that has the old file loaded keeps it.
            fresh = target.with_name(f".{target.name}.new")
            shutil.copy2(built, fresh)
            fresh.replace(target)

    def get_outputs(self) -> list[str]:
        if native.folder is None:
            return []
        package = ROOT / "fastdml" if self.inplace else Path(self.build_lib) / "fastdml"
        return [str(target) for _, target in _layout(native.folder, package)]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []


class Wheel(bdist_wheel):
    """A platform wheel where something was compiled, else one for any platform."""

    def run(self) -> None:
        if native.compile() is None:
            self.root_is_pure = True
            self.distribution.ext_modules = []
        # What an earlier build left there would be packed too.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()


def _layout(folder: Path, package: Path) -> list[tuple[Path, Path]]:
    """What was built, and where in the package it goes."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [
        (path, (package if path.name.startswith("_C.") else package / "lib") / path.name) for path in files
    ]


def packages() -> tuple[list[str], dict[str, str]]:
    """Every package with its folder; triton_kernels/, csrc/ and recipes/ travel inside fastdml."""
    found = find_namespace_packages(where=str(ROOT), include=["fastdml*"], exclude=["fastdml.lib*"])
    folders = {}
    for top in ("triton_kernels", "csrc"):
        folders[f"fastdml.{top}"] = top
        inner = find_namespace_packages(where=str(ROOT / top), exclude=["*__pycache__*"])
        found += [f"fastdml.{top}", *(f"fastdml.{top}.{name}" for name in inner)]
    folders["fastdml.recipe_files"] = "recipes"
    return [name for name in (*found, "fastdml.recipe_files") if "__pycache__" not in name], folders


names, folders = packages()
options: dict[str, Any] = {
    "packages": names,
    "package_dir": folders,
    "package_data": {
        "": ["*.cpp", "*.h", "*.cu", "*.cuh"],
        "fastdml": ["py.typed"],
        "fastdml.recipe_files": ["*.toml"],
        "fastdml.data": ["**/*.npz", "**/*.json", "**/*.png", "**/NOTICE*", "**/LICENSE*", "**/*.txt"],
    },
    "cmdclass": {"build_ext": BuildNative, "bdist_wheel": Wheel},
}
if native.wanted:
    options["ext_modules"] = [Extension("fastdml._C", sources=[])]

setup(**options)
