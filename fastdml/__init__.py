"""Fused deep-metric-learning losses: no N x N similarity matrix, no list of triplets.

`fastdml.losses` holds the loss modules, `fastdml.miners` their lazy miners, `fastdml.functional` the same as
functions, `fastdml.rules` what losses are made of, `fastdml.gpw` their pair weights, `fastdml.recipes` how
papers trained with them, `fastdml.noise` labels that are partly wrong; `CachedGradients` are those of batches
larger than memory. All are imported when they are first used, torch with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastdml import (
        data,
        distributed,
        functional,
        gpw,
        losses,
        miners,
        noise,
        recipes,
        retrieval,
        rules,
        training,
    )
    from fastdml.backends.registry import available_backends, use_backend
    from fastdml.cached_gradients import CachedGradients
    from fastdml.errors import BackendError, InputError, RuleError
    from fastdml.soft_labels import SoftLabels

__version__ = "0.1.0"

_SUBMODULES = (
    "data",
    "distributed",
    "functional",
    "gpw",
    "losses",
    "miners",
    "noise",
    "recipes",
    "retrieval",
    "rules",
    "training",
)
_NAMES = {
    "BackendError": "errors",
    "CachedGradients": "cached_gradients",
    "InputError": "errors",
    "RuleError": "errors",
    "SoftLabels": "soft_labels",
    "available_backends": "backends.registry",
    "use_backend": "backends.registry",
}

__all__ = [
    "BackendError",
    "CachedGradients",
    "InputError",
    "RuleError",
    "SoftLabels",
    "__version__",
    "available_backends",
    "data",
    "distributed",
    "functional",
    "gpw",
    "losses",
    "miners",
    "noise",
    "recipes",
    "retrieval",
    "rules",
    "training",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"fastdml.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"fastdml.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'fastdml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
