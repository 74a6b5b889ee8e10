"""Half of the interpreter's time goes by looking for triton's builtins, which it does at every call of a kernel.

It exchanges them by its own and back; their names do not change, so they are found once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


@functools.cache
def builtins_of(owner: ModuleType | type) -> tuple[str, ...]:
    from triton.language import core

    return tuple(name for name, member in inspect.getmembers(owner) if core.is_builtin(member))


def patch_builtins(owner: ModuleType | type, builder: Any, *scope: Any) -> None:
    """As triton.runtime.interpreter._patch_builtin, which looks at every member of ``owner``."""
    from triton.language import core
    from triton.runtime import interpreter

    for name in builtins_of(owner):
        member = getattr(owner, name)
        if core.is_builtin(member):  # else it is exchanged already
            interpreter._patch_attr(owner, name, member, builder, *scope)


def installed() -> Iterator[None]:
    from triton.runtime import interpreter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", patch_builtins)
        yield
