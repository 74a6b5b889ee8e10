"""The Triton kernels as operators: whether they can run here, and their registration on first use."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
from typing import Any

import torch
from torch import Tensor

MINIMUM = (3, 6)
_OPERATORS = {
    "pair": ("pair_forward", "pair_backward"),
    "thresholds": ("threshold_forward", "threshold_backward"),
    "proxy": ("proxy_forward", "proxy_backward"),
    "centroid": (
        "nearest_others",
        "hinge_sums",
        "hinge_gradients",
        "listed_distances",
        "listed_gradients",
        "class_sums",
    ),
}
"""By the module of the kernels that has them."""


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
        load()
    except ImportError as error:
        return f"the kernels cannot be imported: {error}"
    return None


def load() -> None:
    """Imports the kernels and registers their operators, once."""
    global _library
    if _library is not None:
        return
    # cpu tensors reach the operators only when they were asked for, and run under the interpreter alone
    library = torch.library.Library("fastdml", "IMPL")
    for module, names in _OPERATORS.items():
        kernels = importlib.import_module(f"fastdml.triton_kernels.{module}")
        for name in names:
            run = on_device_of_first(getattr(kernels, name))
            for key in ("CUDA", "CPU"):
                library.impl(f"{name}_triton", run, key)
    _library = library


_library: torch.library.Library | None = None


@functools.cache
def on_device_of_first(function: Any) -> Any:
    """Runs on the device of the first argument: Triton launches on the current one."""

    @functools.wraps(function)
    def run(tensor: Tensor, *args: Any) -> Any:
        with torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext():
            return function(tensor, *args)

    return run
