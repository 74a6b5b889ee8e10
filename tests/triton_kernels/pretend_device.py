"""A device that is not there: Triton takes every launch as for a Hopper GPU, and nothing is compiled or run.

What a launch would be compiled for is kept: types, compile-time arguments, what is known of alignment,
options. Memory that a kernel would have filled holds zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from triton import runtime
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from fastdml.backends import registry, triton
from fastdml.triton_kernels import configs, pair_block, proxy_backward

ARCH, PROCESSORS = "sm_90", 132


class Launch(NamedTuple):
    """What a kernel is compiled for, as Triton finds it from the arguments of a launch."""

    kernel: Any
    key: str
    signature: dict[str, Any]
    constants: dict[str, Any]
    aligned: frozenset[str]
    """The arguments that are known to be multiples of 16, tuples left out."""
    options: Any


class _Driver:
    """What of Triton's driver a launch asks for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(ARCH.removeprefix("sm_")), 32)


class _Compiled:
    """What stands for a compiled kernel: launching it does nothing."""

    function = packed_metadata = None

    def launch_metadata(self, *arguments: Any) -> None:
        return None

    def run(self, *arguments: Any) -> None:
        return None


def pretended_launches() -> Iterator[list[Launch]]:
    """The launches so far that would compile a kernel, for as long as the fixture lives that this is made."""
    found: list[Launch] = []
    kernels = set()

    def keep(
        kernel: Any,
        key: str,
        signature: Any,
        device: int,
        constants: Any,
        options: Any,
        attrs: Any,
        warmup: bool,
    ) -> _Compiled:
        names = kernel.arg_names
        aligned = frozenset(names[path[0]] for path, attr in attrs.items() if attr and len(path) == 1)
        named = {names[path[0]]: value for path, value in constants.items()}
        found.append(Launch(kernel, key, signature, named, aligned, options))
        kernel.device_caches[device][0][key] = _Compiled()
        kernels.add(kernel)
        return kernel.device_caches[device][0][key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "_do_compile", keep)
        patch.setattr(triton, "interpreted", lambda: True)  # CPU tensors are taken
        patch.setattr(triton, "reason", triton.load)
        patch.setattr(registry, "_reasons", {})
        patch.setattr(configs, "arch", lambda tensor: ARCH)
        patch.setattr(configs, "processors", lambda tensor: PROCESSORS)
        for module, name in ((pair_block, "add_product"), (proxy_backward, "add_product")):
            patch.setattr(module, name, lambda out, left, right: None)
        patch.setattr(proxy_backward, "make_product", lambda out, left, right: None)
        patch.setattr(torch, "empty", torch.zeros)
        patch.setattr(torch, "empty_like", torch.zeros_like)
        patch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
        patch.setattr(runtime.driver, "_active", _Driver())
        yield found
        for kernel in kernels:
            kernel.device_caches.clear()
