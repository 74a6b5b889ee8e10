"""`fastdml doctor`: what is installed, what was built, and which backend would run what, and why."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

import fastdml
from fastdml.backends import extension, native, registry
from fastdml.backends.extension import BuildError
from fastdml.errors import BackendError

VARIABLES = ("FASTDML_BACKEND", "FASTDML_BUILD_EXT", "FASTDML_CACHE", "FASTDML_CUDA_ARCH", "TRITON_INTERPRET")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PARTS: tuple[extension.Part, ...] = ("cpu", "cuda")


def doctor() -> None:
    """Prints versions, tools, what was built, the processor's instruction sets and the choice of backend."""
    sections = (
        ("versions", _versions()),
        ("tools", _tools()),
        ("native libraries", _libraries()),
        ("backends", _backends()),
    )
    for title, rows in sections:
        print(title)
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"  {name:<{width}}  {value}")
        print()
    print("which backend would run, by device and dtype")
    for line in _choices():
        print(f"  {line}")


def _versions() -> list[tuple[str, str]]:
    rows = [
        ("fastdml", f"{fastdml.__version__} in {native.PACKAGE}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", torch.__version__),
        ("triton", _version("triton")),
        ("CUDA", torch.version.cuda or f"HIP {torch.version.hip}" if _gpu_build() else "none in this torch"),
        ("GPU", _gpus()),
    ]
    rows += [(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    return rows


def _tools() -> list[tuple[str, str]]:
    try:
        compiler = extension.find_compiler()
        cxx = f"{compiler.version} ({' '.join(compiler.command)})"
    except BuildError as error:
        cxx = f"none: {error}"
    try:
        cuda = extension.find_cuda()
        nvcc = f"{cuda.version} ({cuda.nvcc}), for sm_{', sm_'.join(cuda.architectures)}"
    except BuildError as error:
        nvcc = f"none: {error}"
    return [("C++ compiler", cxx), ("nvcc", nvcc), ("cache", str(extension.cache_root()))]


def _libraries() -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for part in PARTS:
        try:
            found = native.load(part)
        except BuildError as error:
            rows.append((part, f"not loaded: {error}"))
            continue
        if found.reason is not None:
            rows.append((part, f"not loaded: {found.reason}"))
            continue
        record = found.manifest
        rows.append((part, f"{found.origin}, {found.folder}"))
        rows.append(("", f"by {record.get('compiler')}, torch {record.get('torch')}"))
        rows.append(("", str(record.get("flags"))))
        targets = record.get("architectures") or record.get("isas") or []
        rows.append(("", f"compiled for {', '.join(targets)}"))
    return [*rows, *_processor()]


def _processor() -> list[tuple[str, str]]:
    module = native.module()
    if module is None:
        return [("processor", f"{platform.machine()}; features unknown without fastdml._C")]
    features = [name for name, present in module.cpu_features().items() if present]
    rows = [("processor", f"{platform.machine()}, {' '.join(features) or 'no features asked about'}")]
    return [*rows, ("in use", f"{module.instruction_set()} kernels")]


def _backends() -> list[tuple[str, str]]:
    rows = []
    for name in registry.BACKENDS:
        why = registry.reason_against(name)
        rows.append((name, "can run" if why is None else f"cannot: {why}"))
    return [*rows, ("asked for", registry.asked_backend() or "none, each call chooses")]


def _choices() -> list[str]:
    lines = [f"{'device':<8}{'dtype':<10}{'backend':<11}why"]
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in DTYPES:
            try:
                name, why = registry.select(device, dtype)
            except (BackendError, ValueError) as error:
                name, why = "error", str(error)
            lines.append(f"{device:<8}{str(dtype).removeprefix('torch.'):<10}{name:<11}{why}")
    return lines


def _gpu_build() -> bool:
    return torch.version.cuda is not None or torch.version.hip is not None


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    names = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        names.append(f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})")
    return ", ".join(names)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
