"""Runs on a GPU what the interpreted tests ask of tensors on the CPU: the same, of the compiled kernels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastdml.backends import triton


def through(device: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The operator on tensors that were taken to the device, its results brought back."""

    def run(*arguments: Any) -> Any:
        taken = [one.to(device) if isinstance(one, Tensor) else one for one in arguments]
        return tree_map_only(Tensor, lambda one: one.cpu(), function(*taken))

    return run


def operators_on(device: str) -> torch.library.Library:
    """Sends calls with CPU tensors to the device, for as long as what is returned lives."""
    triton.load()
    library = torch.library.Library("fastdml", "IMPL")
    for module, names in triton._OPERATORS.items():
        kernels = importlib.import_module(f"fastdml.triton_kernels.{module}")
        for name in names:
            library.impl(
                f"{name}_triton", through(device, getattr(kernels, name)), "CPU", allow_override=True
            )
    return library


def kernels_on_device() -> Iterator[None]:
    """For as long as the fixture lives that this is made."""
    library = operators_on("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "interpreted", lambda: True)  # CPU tensors are taken
        yield
    library._destroy()
