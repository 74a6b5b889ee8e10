"""What every retrieval function accepts, checked once and turned into one form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.errors import InputError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class RetrievalSets:
    """Queries and gallery, ready to be compared.

    queries [Q, D] and gallery [G, D] are finite, of one dtype (float32, or float64 where the caller gave
    float64) and on one device; labels are int64 [Q] and [G]; ``self_index`` int64 [Q] says which gallery row
    each query is, -1 where it is none of them.
    """

    queries: Tensor
    query_labels: Tensor
    gallery: Tensor
    gallery_labels: Tensor
    self_index: Tensor


def prepare(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None,
    gallery_labels: Tensor | None,
    self_index: Tensor | None,
    normalise: bool,
) -> RetrievalSets:
    """Check the inputs and bring them to one dtype. With no gallery the queries are their own gallery."""
    _check_embeddings("embeddings", queries)
    _check_labels("labels", query_labels, queries)
    if (gallery is None) != (gallery_labels is None):
        missing = "gallery" if gallery is None else "gallery_labels"
        raise InputError(f"gallery and gallery_labels belong together: {missing} was not given")
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    prepared_queries = _to_dtype("embeddings", queries, dtype, normalise)
    labels = query_labels.long()
    if gallery is None or gallery_labels is None:
        if self_index is not None:
            raise InputError(
                "self_index is accepted only with a gallery: without one, query i is gallery row i"
            )
        own = torch.arange(queries.shape[0], device=queries.device)
        return RetrievalSets(prepared_queries, labels, prepared_queries, labels, own)

    _check_embeddings("gallery", gallery)
    _check_labels("gallery_labels", gallery_labels, gallery)
    if gallery.shape[1] != queries.shape[1]:
        raise InputError(
            f"gallery must have {queries.shape[1]} columns as embeddings has, got {gallery.shape[1]}"
        )
    if gallery.device != queries.device:
        raise InputError(f"gallery must be on {queries.device} as embeddings is, got {gallery.device}")
    if self_index is None:
        self_index = torch.full((queries.shape[0],), -1, dtype=torch.int64, device=queries.device)
    else:
        self_index = _check_self_index(self_index, queries, gallery)
    return RetrievalSets(
        prepared_queries,
        labels,
        _to_dtype("gallery", gallery, dtype, normalise),
        gallery_labels.long(),
        self_index,
    )


def _check_embeddings(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.ndim != 2:
        raise InputError(f"{name} must have shape [N, D], got {list(value.shape)}")
    if value.dtype not in _FLOATS:
        raise InputError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")
    if value.shape[0] == 0 or value.shape[1] == 0:
        raise InputError(f"{name} must hold at least one row and one column, got shape {list(value.shape)}")


def _check_labels(name: str, value: Tensor, embeddings: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if list(value.shape) != [embeddings.shape[0]]:
        raise InputError(f"{name} must have shape [{embeddings.shape[0]}], got {list(value.shape)}")
    if value.dtype not in _INTEGERS:
        raise InputError(f"{name} must be of an integer dtype, got {value.dtype}")
    if value.device != embeddings.device:
        raise InputError(f"{name} must be on {embeddings.device} as its embeddings are, got {value.device}")


def _check_self_index(self_index: Tensor, queries: Tensor, gallery: Tensor) -> Tensor:
    _check_labels("self_index", self_index, queries)
    lowest, highest = int(self_index.min()), int(self_index.max())
    if lowest < -1 or highest >= gallery.shape[0]:
        raise InputError(
            f"self_index must lie in [-1, {gallery.shape[0] - 1}] (-1: not in the gallery), "
            f"got values from {lowest} to {highest}"
        )
    return self_index.long()


def _to_dtype(name: str, value: Tensor, dtype: torch.dtype, normalise: bool) -> Tensor:
    value = value.detach().to(dtype)
    if not bool(torch.isfinite(value).all()):
        rows = int((~torch.isfinite(value)).any(dim=1).sum())
        raise InputError(f"{name} must be finite, got {rows} of {value.shape[0]} rows with NaN or infinity")
    return torch.nn.functional.normalize(value, dim=1) if normalise else value
