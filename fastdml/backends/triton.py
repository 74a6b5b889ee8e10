"""Whether the Triton kernels can run here."""

from __future__ import annotations

import importlib
import os
import re

import torch

MINIMUM = (3, 6)


def interpreted() -> bool:
    """Whether TRITON_INTERPRET asks for kernels to be run by Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def reason() -> str | None:
    """None where the kernels can run (and their operators are registered), else why they cannot."""
    if not interpreted() and not torch.cuda.is_available():
        return "no CUDA or HIP device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    try:
        version = importlib.import_module("triton").__version__
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if release < MINIMUM:
        return f"triton {version} is older than {'.'.join(map(str, MINIMUM))}"
    try:
        importlib.import_module("fastdml.triton_kernels")
    except ImportError as error:
        return f"the kernels cannot be imported: {error}"
    return None
