"""What settings can tell a loss of the catalogue: its arguments that are numbers, words and switches."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from torch import nn

from fastdml.distances import CosineSimilarity, Distance, DotProductSimilarity, LpDistance
from fastdml.losses import HardTripleLoss, SubCenterArcFaceLoss
from fastdml.training.config import ConfigError

DISTANCES: Mapping[str, Distance] = {
    "cosine": CosineSimilarity(),
    "dot product": DotProductSimilarity(normalize_embeddings=False),
    "euclidean": LpDistance(),
    "plain euclidean": LpDistance(normalize_embeddings=False),
    "squared euclidean": LpDistance(power=2),
}
"""By the name that settings have for them; all but "dot product" and "plain euclidean" of unit vectors."""

_PLAIN = {bool, int, float, str, type(None)}
# Sizes and labels come from the data; the others mean nothing without an object, or leave no scalar.
_NOT_OPTIONS = (
    "num_classes",
    "embedding_size",
    "ignore_index",
    "embedding_reg_weight",
    "weight_reg_weight",
    "reduction",
)
# What a class sets itself and its base would take.
_FIXED: Mapping[type[nn.Module], str] = {
    HardTripleLoss: "gamma",
    SubCenterArcFaceLoss: "centers_per_class",
}


def accepted_options(kind: type[nn.Module]) -> dict[str, tuple[type, ...]]:
    """The arguments of a loss or miner that settings can give, by name, and the types that each takes.

    "distance" is a name of ``DISTANCES``; "preset" one of the loss's presets, which stands in place of the
    catalogue's arguments.
    """
    found: dict[str, tuple[type, ...]] = {"preset": (str,)} if hasattr(kind, "presets") else {}
    for base in kind.__mro__:
        make = vars(base).get("__init__")
        if make is None:
            continue
        parameters, hints = inspect.signature(make).parameters, get_type_hints(make)
        for name in parameters.keys() & hints.keys():
            types = (str,) if name == "distance" else get_args(hints[name]) or (hints[name],)
            if set(types) <= _PLAIN and name not in (*_NOT_OPTIONS, _FIXED.get(kind)):
                found.setdefault(name, types)
        if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
            break  # nothing is handed on to the next base
    return dict(sorted(found.items()))


def check_options(kind: type[nn.Module], options: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError, which begins with ``where``, on an option that does not exist or fit."""
    accepted = accepted_options(kind)
    for name, value in options.items():
        if name not in accepted:
            near = get_close_matches(name, accepted, n=1)
            hint = f" (near it: {near[0]})" if near else ""
            raise ConfigError(
                f"{where} of {kind.__name__} must be among {', '.join(accepted)}, got {name!r}{hint}"
            )
        if not _fits(value, accepted[name]):
            names = " or ".join("none" if one is type(None) else one.__name__ for one in accepted[name])
            raise ConfigError(f"{where}.{name} of {kind.__name__} must be {names}, got {value!r}")
        if name == "distance" and value not in DISTANCES:
            raise ConfigError(f"{where}.distance must be one of {', '.join(DISTANCES)}, got {value!r}")


def make_with_options(kind: Any, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """A loss or miner with the catalogue's arguments but where the options, already checked, differ."""
    given = {**({} if "preset" in options else arguments), **options}
    if isinstance(given.get("distance"), str):
        given["distance"] = DISTANCES[given["distance"]]
    preset = given.pop("preset", None)
    made: nn.Module = kind(**given) if preset is None else kind.preset(preset, **given)
    return made


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (isinstance(value, int) and float in types)
