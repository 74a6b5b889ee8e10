"""Which backend runs a call, and why.

The choice depends on the tensors' device and dtype, on what can run here, and on what was asked for by
`use_backend` or FASTDML_BACKEND. What was asked for is plain module state, which torch.compile guards.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

import torch

from fastdml.backends import native, triton
from fastdml.errors import BackendError

BACKENDS = ("triton", "cuda", "cpu", "blocked", "reference")

_SINGLE_AND_HALVES = frozenset((torch.float16, torch.bfloat16, torch.float32))
_WITH_DOUBLE = _SINGLE_AND_HALVES | {torch.float64}

# Tried in this order where none was asked for; blocks of plain PyTorch run what none of them does.
_AUTOMATIC: dict[str, tuple[str, ...]] = {"cuda": ("triton", "cuda"), "cpu": ("cpu",)}
_DTYPES = {"triton": _SINGLE_AND_HALVES, "cuda": _WITH_DOUBLE, "cpu": _WITH_DOUBLE}
_DEVICES: dict[str, tuple[str, ...]] = {"triton": ("cuda",), "cuda": ("cuda",), "cpu": ("cpu",)}

_asked: str | None = os.environ.get("FASTDML_BACKEND", "").strip().lower() or None
_reasons: dict[str, str | None] = {}
_warned: set[str] = set()


class Choice(NamedTuple):
    """The backend that runs a call, and why it and no other."""

    name: str
    reason: str


class use_backend:
    """Asks for one backend, for the whole process: from now on, or inside a `with` block.

    Args:
        name: "triton", "cuda", "cpu", "blocked" or "reference"; None or "auto" lets every call choose again.

    Raises:
        ValueError: an unknown name. A known one that cannot run raises BackendError when a loss is called.
    """

    def __init__(self, name: str | None) -> None:
        global _asked
        wanted = None if name in (None, "auto") else _known(name)
        self._before = _asked
        _asked = wanted

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _asked
        _asked = self._before


def available_backends() -> tuple[str, ...]:
    """The backends that can run on this machine, most specific first.

    May build the native extension, where it was never built and a compiler is there.
    """
    return tuple(name for name in BACKENDS if reason_against(name) is None)


def asked_backend() -> str | None:
    """What `use_backend` or FASTDML_BACKEND asks for; None where each call chooses."""
    return _asked


def select(
    device_type: str,
    dtype: torch.dtype,
    unsupported: Callable[[str], str | None] | None = None,
) -> Choice:
    """Chooses the backend of one call.

    Args:
        device_type: the type of the tensors' device, such as "cpu" or "cuda".
        dtype: the dtype of the embeddings.
        unsupported: tells why a backend cannot run this call, None where it can.

    Raises:
        BackendError: the backend that was asked for cannot run this call.
        ValueError: FASTDML_BACKEND names no backend.
    """
    asked = _asked
    if asked is not None:
        why = _against(_known(asked), device_type, dtype, unsupported, asked=True)
        if why is not None:
            raise BackendError(_refusal(asked, why, device_type, dtype, unsupported))
        return Choice(asked, "asked for")
    reasons = ""
    for name in _AUTOMATIC.get(device_type, ()):
        why = _against(name, device_type, dtype, unsupported)
        if why is None:
            return Choice(name, f"{reasons}the first that can run" if reasons else "the first choice here")
        reasons += f"{name}: {why}; "
    return Choice("blocked", f"{reasons}blocks of plain PyTorch run anywhere")


def reason_against(name: str) -> str | None:
    """Why a backend cannot run on this machine at all; None where it can."""
    if name not in _DEVICES:
        return None
    if name not in _reasons:
        _reasons[name] = triton.reason() if name == "triton" else native.reason(name)  # type: ignore[arg-type]
    return _reasons[name]


def _against(
    name: str,
    device_type: str,
    dtype: torch.dtype,
    unsupported: Callable[[str], str | None] | None,
    asked: bool = False,
) -> str | None:
    """Why `name` cannot run a call; None where it can. Cheap reasons come first, probing the machine last."""
    if name in _DEVICES:
        if device_type not in _DEVICES[name] and not (name == "triton" and device_type == "cpu" and asked):
            return f"it does not run on {device_type} tensors"
        if dtype not in _DTYPES[name]:
            return f"it does not take {dtype}"
    if unsupported is not None:
        why = unsupported(name)
        if why is not None:
            return why
    return None if name not in _DEVICES else _missing(name, device_type, not asked)


def _missing(name: str, device_type: str, warn: bool) -> str | None:
    why = reason_against(name)
    if name == "triton" and device_type == "cpu" and why is None and not triton.interpreted():
        return "it runs on cpu tensors only under TRITON_INTERPRET=1"
    if warn and why is not None and name == "cpu" and name not in _warned:
        _warned.add(name)
        if not native.load("cpu").by_choice:
            warnings.warn(
                f"fastdml has no native CPU backend here, losses run in plain PyTorch: {why}",
                RuntimeWarning,
                stacklevel=2,
            )
    return why


# torch.compile calls this for real while it traces and keeps the answer: a machine stays what it is.
# This is what torch.compiler.assume_constant_result sets, without the import of torch._dynamo.
_missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _known(name: str | None) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or auto, got {name!r}")
    return name


def _refusal(
    asked: str,
    why: str,
    device_type: str,
    dtype: torch.dtype,
    unsupported: Callable[[str], str | None] | None,
) -> str:
    can = [name for name in BACKENDS if _against(name, device_type, dtype, unsupported, asked=True) is None]
    return (
        f"backend {asked!r} was asked for and cannot run {dtype} on {device_type}: {why}. "
        f"What can: {', '.join(can) or 'none'}"
    )
