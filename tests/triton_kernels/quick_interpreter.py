"""Spares Triton's interpreter what takes it half of its time.

At every launch it exchanges the builtins of triton.language for its own, for which it looks at all names
there; and again at every call of a function within the kernel, though nothing is left to exchange.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest


def exchanged_once_a_launch() -> Iterator[None]:
    """For as long as the fixture lives that this is made."""
    from triton import language
    from triton.runtime import interpreter

    exchange, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    modules, exchanged = (language, language.core), set[ModuleType]()

    @functools.cache
    def seen_by(function: Callable[..., Any]) -> set[ModuleType]:
        return {module for module in function.__globals__.values() if any(module is one for one in modules)}

    def exchange_what_is_left(function: Callable[..., Any]) -> Any:
        if seen_by(function) <= exchanged:
            return None
        exchanged.update(seen_by(function))
        return exchange(function)

    def launch_anew(*arguments: Any, **named: Any) -> None:
        exchanged.clear()
        launch(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", exchange_what_is_left)
        patch.setattr(interpreter.GridExecutor, "__call__", launch_anew)
        yield
