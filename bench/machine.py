"""What a results file says about where and of what its rows were measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import fastdml
from fastdml.backends import native

ROOT = Path(__file__).resolve().parents[1]


def describe(device: str) -> dict[str, Any]:
    """The header of a run: device, versions, commit, command."""
    commit, dirty = _commit()
    return {
        "device": device_name(device),
        "kind": device,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": _instructions(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "pml": _version("pytorch-metric-learning"),
        "faiss": _version("faiss-cpu"),
        "cuda": torch.version.cuda,
        "fastdml": fastdml.__version__,
        "commit": commit,
        "dirty": dirty,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": _command(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def run_name(header: dict[str, Any]) -> str:
    """The name by which rows refer to their run's header."""
    return f"{header['date']} {header['commit'][:10]}{'+' if header['dirty'] else ''}"


def device_name(device: str) -> str:
    """The device as people call it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{_processor()}, {os.cpu_count()} cores"


def slug(device: str) -> str:
    """The folder of a device's results."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def shown(path: Path) -> str:
    """A path as this checkout sees it."""
    return os.path.relpath(path.resolve(), ROOT)


def shown_from(path: Path, folder: Path) -> str:
    """A path relative to a folder, as a link in a file of that folder writes it."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _instructions() -> str:
    """The instruction set that fastdml's own kernels use here, and torch's."""
    module = native.module()
    own = module.instruction_set() if module is not None else "no native kernels"
    return f"fastdml {own}, torch {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> tuple[str, bool]:
    """The commit and whether anything differs from it; FASTDML_COMMIT where no repository travels along."""
    given = os.environ.get("FASTDML_COMMIT")
    if given:
        return given.removesuffix("+"), given.endswith("+")
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs", ":!README.md")
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
    return commit, bool(changed)


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _command() -> str:
    """The command as it was typed, without this machine's folders."""
    words = [shown(Path(word)) if os.path.isabs(word) else word for word in sys.argv]
    program = words[0] if words else ""
    if program.endswith("pytest") or "pytest" in program.split(os.sep):
        program = "pytest"
    elif program.endswith(".py"):
        program = "python -m " + program.removesuffix(".py").replace(os.sep, ".")
    return " ".join([program, *words[1:]])
