"""Starting values for a part of a parameter whose whole is never made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastdml.errors import InputError


def filled_part(whole: Tensor, shape: Sequence[int], fill: Callable[[Tensor], Any], rank: int) -> Tensor:
    """A part with the values that ``fill`` gives the whole, as scaled by the whole's shape.

    Args:
        whole: on the meta device; ``fill`` sees its shape.
        shape: of the part.
        fill: sets every number of its argument in place, by PyTorch's functions, independently of others.
        rank: ranks draw different numbers, also where their seeds are the same.

    Returns:
        On the CPU, in the dtype of the whole.

    Raises:
        InputError: ``fill`` does not set every number by itself.
    """
    part = torch.empty(*shape, dtype=whole.dtype, device="cpu")
    seed = int(torch.randint(1 << 62, (), device="cpu"))
    with torch.random.fork_rng(devices=[]), _OnPart(whole, part) as passed:
        torch.default_generator.manual_seed(seed + rank)
        fill(whole)
    if passed.calls:
        return part
    raise InputError(f"{_WANTED}, got one that sets nothing there")


_WANTED = "weight_init_func must set every number by itself where the loss is built on the meta device"


class _OnPart(TorchDispatchMode):
    """Does to a part what is done in place to the whole."""

    def __init__(self, whole: Tensor, part: Tensor) -> None:
        super().__init__()
        self.whole, self.part, self.calls = whole, part, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.is_mutable:
            return func(*args, **kwargs)
        if args[0] is not self.whole or any(isinstance(arg, Tensor) for arg in args[1:]):
            raise InputError(f"{_WANTED}, got one that calls {func}")
        func(self.part, *args[1:], **kwargs)
        self.calls += 1
        return self.whole
