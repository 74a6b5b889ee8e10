"""What is there to build with: a C++ compiler, torch's headers, nvcc and the GPUs to compile for."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ARCHITECTURES = ("80", "90", "100", "120")


class BuildError(RuntimeError):
    """The native extension cannot be built; the message says why."""


@dataclass(frozen=True)
class Torch:
    """An installed torch, described without importing it."""

    folder: Path
    version: str
    cuda: str | None

    @property
    def include(self) -> Path:
        return self.folder / "include"

    @property
    def lib(self) -> Path:
        return self.folder / "lib"


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that answers `--version`."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Cuda:
    """nvcc and the architectures to compile for; PTX of the last one is kept for newer GPUs."""

    nvcc: str
    version: str
    architectures: tuple[str, ...]

    @property
    def gencode(self) -> list[str]:
        flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in self.architectures]
        last = self.architectures[-1]
        return [*flags, f"-gencode=arch=compute_{last},code=compute_{last}"]


def build_mode() -> str:
    """FASTDML_BUILD_EXT: `auto` (default), `0` (never build) or `1` (a build that fails is an error)."""
    mode = os.environ.get("FASTDML_BUILD_EXT", "").strip().lower() or "auto"
    if mode not in ("auto", "0", "1"):
        raise ValueError(f"FASTDML_BUILD_EXT must be auto, 0 or 1, got {mode!r}")
    return mode


def find_torch() -> Torch | None:
    """The torch of this process's path, or else of the environment that pip's build isolation hides."""
    try:
        spec = importlib.util.find_spec("torch")
    except ValueError:
        spec = None
    origin = spec.origin if spec else None
    if origin is None:
        # -I ignores PYTHONPATH, through which pip lays its isolated environment over the real one.
        code = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')"
        answer = _output([sys.executable, "-I", "-c", code])
        origin = answer.strip() if answer else None
    if not origin:
        return None
    folder = Path(origin).parent
    try:
        facts = runpy.run_path(str(folder / "version.py"))
    except OSError:
        return None
    if not (folder / "include" / "torch" / "csrc" / "stable").is_dir():
        return None
    return Torch(folder, str(facts["__version__"]), facts.get("cuda"))


def find_compiler() -> Compiler:
    """$CXX, or else the first of c++, g++ and clang++ that works; BuildError says why there is none."""
    if sys.platform == "win32":
        raise BuildError("the native extension is built on Linux and macOS only")
    asked = os.environ.get("CXX", "").strip()
    commands = [tuple(shlex.split(asked))] if asked else [("c++",), ("g++",), ("clang++",)]
    why = []
    for command in commands:
        path = shutil.which(command[0])
        if path is None:
            why.append(f"{command[0]} not found")
            continue
        answer = _output([path, *command[1:], "--version"])
        if answer is None:
            why.append(f"{shlex.join(command)} --version fails")
            continue
        return Compiler((path, *command[1:]), answer.splitlines()[0].strip() if answer else "")
    source = "CXX" if asked else "PATH"
    raise BuildError(f"no working C++ compiler in {source}: {', '.join(why)}")


def find_nvcc() -> str | None:
    """The path of nvcc, by CUDA_HOME, CUDA_PATH, PATH or the usual folder."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        folder = os.environ.get(variable)
        if folder and (found := shutil.which("nvcc", path=os.path.join(folder, "bin"))):
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def find_cuda(architectures: tuple[str, ...] | None = None) -> Cuda:
    """nvcc and its targets: those given, or FASTDML_CUDA_ARCH, or the GPUs here, or a default list."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("nvcc not found in CUDA_HOME, CUDA_PATH or PATH")
    answer = _output([nvcc, "--version"]) or ""
    release = re.search(r"V(\d+[\d.]*)", answer)
    if release is None:
        raise BuildError(f"{nvcc} --version fails")
    supported = re.findall(r"sm_(\d+)", _output([nvcc, "--list-gpu-code"]) or "")
    wanted = architectures or _asked_architectures() or _local_architectures()
    if not wanted:
        wanted = tuple(arch for arch in DEFAULT_ARCHITECTURES if arch in supported)
    chosen = tuple(dict.fromkeys(_nearest(arch, supported) for arch in wanted))
    if not chosen:
        raise BuildError(f"nvcc {release[1]} supports none of {', '.join(DEFAULT_ARCHITECTURES)}")
    return Cuda(nvcc, release[1], chosen)


def _asked_architectures() -> tuple[str, ...]:
    """FASTDML_CUDA_ARCH such as `90`, `8.0;9.0` or `80,90a`."""
    text = os.environ.get("FASTDML_CUDA_ARCH", "").replace(".", "")
    names = tuple(re.findall(r"[^\s,;]+", text))
    for name in names:
        if not re.fullmatch(r"\d{2,3}[af]?", name):
            raise BuildError(f"FASTDML_CUDA_ARCH must list architectures such as 80;90, got {text!r}")
    return names


def _local_architectures() -> tuple[str, ...]:
    smi = shutil.which("nvidia-smi")
    answer = _output([smi, "--query-gpu=compute_cap", "--format=csv,noheader"]) if smi else None
    found = {match.replace(".", "") for match in re.findall(r"^\d+\.\d$", answer or "", re.MULTILINE)}
    return tuple(sorted(found, key=int))


def _nearest(arch: str, supported: list[str]) -> str:
    """`arch`, or the newest older one that nvcc knows: its PTX runs on `arch`."""
    number = int(re.sub(r"\D", "", arch))
    if not supported or str(number) in supported:
        return arch
    older = [int(name) for name in supported if int(name) < number]
    if not older:
        raise BuildError(f"nvcc no longer compiles for sm_{arch}")
    return str(max(older))


def _output(command: list[str]) -> str | None:
    """What a command prints, run away from the working folder; None where it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=tempfile.gettempdir(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
