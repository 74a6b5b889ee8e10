"""The distances and similarities that losses and miners compare by.

Names are those of pytorch-metric-learning 2.9. Objects of that library are taken too, wherever one of these
is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastdml.errors import InputError
from fastdml.rules import Closeness

ACCEPTED = (
    "CosineSimilarity(), DotProductSimilarity(normalize_embeddings=...) or "
    "LpDistance(normalize_embeddings=..., p=2, power=1 or 2)"
)


@dataclass(frozen=True)
class DotProductSimilarity:
    """Inner product ``<x, y>``; of unit vectors, and so the cosine, unless told otherwise.

    Args:
        normalize_embeddings: scale rows to length one first.
    """

    normalize_embeddings: bool = True
    p: ClassVar[int] = 2
    power: ClassVar[int] = 1
    is_inverted: ClassVar[bool] = True


@dataclass(frozen=True)
class CosineSimilarity:
    """Inner product of unit vectors."""

    normalize_embeddings: ClassVar[bool] = True
    p: ClassVar[int] = 2
    power: ClassVar[int] = 1
    is_inverted: ClassVar[bool] = True


@dataclass(frozen=True)
class LpDistance:
    """Euclidean distance ``|x - y|``, or its square; of unit vectors unless told otherwise.

    Args:
        normalize_embeddings: scale rows to length one first.
        p: the norm; only 2, the Euclidean one, is fused.
        power: 1, or 2 for the squared distance.
    """

    normalize_embeddings: bool = True
    p: int = 2
    power: int = 1
    is_inverted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.p != 2 or self.power not in (1, 2):
            raise InputError(f"distance must be {ACCEPTED}, got LpDistance(p={self.p}, power={self.power})")


Distance = CosineSimilarity | DotProductSimilarity | LpDistance


def closeness_of(distance: Any) -> Closeness:
    """The closeness that the engine compares by, from one of these distances or pytorch-metric-learning's.

    Raises:
        InputError: another distance, by its name and settings.
    """
    kind = type(distance).__name__
    settings = {name: getattr(distance, name, None) for name in ("normalize_embeddings", "p", "power")}
    if kind in ("CosineSimilarity", "DotProductSimilarity", "LpDistance") and settings["p"] == 2:
        normalised = bool(settings["normalize_embeddings"])
        if kind != "LpDistance" and settings["power"] == 1:
            return Closeness("inner", normalised)
        if kind == "LpDistance" and settings["power"] in (1, 2):
            return Closeness("euclidean" if settings["power"] == 1 else "squared", normalised)
    shown = ", ".join(f"{name}={value}" for name, value in settings.items() if value is not None)
    raise InputError(f"distance must be {ACCEPTED}, got {kind}({shown})")
