"""The distances that the losses and miners compare by; so far cosine similarity alone."""

from __future__ import annotations

from typing import Any

from fastdml.errors import InputError


def check_distance(distance: Any) -> None:
    """Accepts None and cosine similarity as pytorch-metric-learning describes it.

    Raises:
        InputError: any other distance, by its name and settings.
    """
    if distance is None:
        return
    wanted = {"normalize_embeddings": True, "p": 2, "power": 1, "is_inverted": True}
    found = {name: getattr(distance, name, None) for name in wanted}
    if type(distance).__name__ in ("CosineSimilarity", "DotProductSimilarity") and found == wanted:
        return
    settings = ", ".join(f"{name}={value}" for name, value in found.items() if value is not None)
    raise InputError(
        f"distance must be CosineSimilarity() or None, got {type(distance).__name__}({settings})"
    )
