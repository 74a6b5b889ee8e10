"""The C++ and CUDA libraries: loads the installed ones, or cached ones, or builds them on first use.

Nothing here runs when fastdml is imported. `reason` is the way in: it loads what a backend needs, once, and
tells why that is impossible where it is.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from fastdml.backends import extension
from fastdml.backends.extension import LIBRARY, MANIFEST, BuildError, Part

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "lib"

Origin = Literal["installed", "cached", "built now", ""]

_log = logging.getLogger("fastdml")
_lock = threading.RLock()
_loaded: dict[Part, Native] = {}
_module: ModuleType | None = None


@dataclass(frozen=True)
class Native:
    """One native library of this process, or why there is none."""

    part: Part
    folder: Path | None = None
    origin: Origin = ""
    manifest: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    """Why it cannot be used; None where it is loaded."""
    by_choice: bool = False
    """Whether FASTDML_BUILD_EXT=0 is the reason."""


def load(part: Part) -> Native:
    """Loads the library of `part` ("cpu" or "cuda") on the first call, and tells what was found."""
    found = _loaded.get(part)
    if found is None:
        with _lock:
            if part not in _loaded:
                _loaded[part] = _load(part)
            found = _loaded[part]
    return found


def reason(part: Part) -> str | None:
    """None where the operators of `part` are registered and can run, else why they cannot."""
    return load(part).reason


def module() -> ModuleType | None:
    """The compiled module `fastdml._C`, which tells what was built; None where it was not built."""
    load("cpu")
    return _module


def sources() -> Path | None:
    """The folder csrc: inside the installed package, or beside it in a checkout."""
    for folder in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if (folder / "cpu").is_dir():
            return folder
    return None


def _load(part: Part) -> Native:
    if part == "cuda" and (why := _no_cuda_device()):
        return Native(part, reason=why)
    csrc = sources()
    attempts = []
    if _fits(part, INSTALLED, csrc):
        native = _open(part, INSTALLED, "installed")
        if native.reason is None:
            return native
        attempts.append(f"the installed library does not load: {native.reason}")
    try:
        folder, origin = _cached_or_built(part, csrc)
        native = _open(part, folder, origin)
        if native.reason is None:
            return native
        attempts.append(native.reason)
    except BuildError as error:
        if extension.build_mode() == "1":
            raise
        attempts.append(str(error))
    return Native(part, reason="; ".join(attempts), by_choice=extension.build_mode() == "0")


def _no_cuda_device() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if not torch.cuda.is_available():
        return "no CUDA device"
    return None


def _fits(part: Part, folder: Path, csrc: Path | None) -> bool:
    """Whether `folder` holds `part`, made of these very sources (a checkout may have moved on)."""
    record = _read(folder / MANIFEST[part])
    return bool(record) and (csrc is None or record.get("sources") == extension.source_hash(csrc))


def _cached_or_built(part: Part, csrc: Path | None) -> tuple[Path, Origin]:
    found = extension.find_torch()
    if csrc is None:
        raise BuildError("the C++ sources are not installed")
    if found is None:
        raise BuildError("torch's headers are missing")
    folder = extension.cached(part, csrc, found)
    if folder is not None:
        return folder, "cached"
    if extension.build_mode() == "0":
        raise BuildError("not built, and FASTDML_BUILD_EXT=0 forbids to")
    compiler = extension.find_compiler()
    cuda = extension.find_cuda() if part == "cuda" else None
    plan = extension.plan_part(part, csrc, found, compiler, cuda)
    folder, built = extension.ensure(plan, lambda: _announce(part))
    return folder, "built now" if built else "cached"


def _announce(part: Part) -> None:
    _log.warning("fastdml: building the %s extension, once, in %s", part, extension.cache_root())


def _open(part: Part, folder: Path, origin: Origin) -> Native:
    record = _read(folder / MANIFEST[part])
    try:
        torch.ops.load_library(str(folder / LIBRARY[part]))
    except (OSError, RuntimeError) as error:
        return Native(part, folder, origin, record, reason=str(error))
    if part == "cpu":
        _open_module(folder, record)
    return Native(part, folder, origin, record)


def _open_module(folder: Path, record: dict[str, Any]) -> None:
    """Imports `_C` from beside the library, or from the package where it is installed."""
    global _module
    name = next((name for name in record.get("products", ()) if name.startswith("_C")), None)
    if name is None:
        return
    path = PACKAGE / name if folder == INSTALLED else folder / name
    spec = importlib.util.spec_from_file_location("fastdml._C", path)
    if spec is None or spec.loader is None:
        return
    try:
        _module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_module)
    except ImportError as error:
        _module = None
        _log.info("fastdml._C does not load: %s", error)
        return
    sys.modules["fastdml._C"] = _module


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record
