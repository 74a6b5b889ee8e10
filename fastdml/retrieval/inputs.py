"""What every retrieval function accepts, checked once and turned into one form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastdml.errors import InputError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
# Elements that are converted or checked together: temporaries stay small.
_TOGETHER = 1 << 19


@dataclass(frozen=True)
class RetrievalSets:
    """One table of embeddings, and which of its rows are queries and which the gallery.

    embeddings [N, D] as given, labels int64 [N] and cameras int64 [N] or None, all on one device; query_rows
    int64 [Q] and gallery_rows int64 [G] index them, gallery_rows without repetition.
    """

    embeddings: Tensor
    labels: Tensor
    query_rows: Tensor
    gallery_rows: Tensor
    cameras: Tensor | None
    normalise: bool

    @property
    def dtype(self) -> torch.dtype:
        """Embeddings are compared in float32, or float64 where given so."""
        return torch.float64 if self.embeddings.dtype == torch.float64 else torch.float32

    def of_queries(self, chosen: Tensor) -> RetrievalSets:
        """The queries at some positions only, against the same gallery."""
        return replace(self, query_rows=self.query_rows[chosen])

    def compared(self, rows: Tensor) -> Tensor:
        """The chosen rows [R, D] as they are compared: in `dtype`, of length one if ``normalise``."""
        out = self.embeddings.new_empty(rows.numel(), self.embeddings.shape[1], dtype=self.dtype)
        for part, some in zip(_parts(out), rows.split(_rows_together(out)), strict=True):
            chosen = self.embeddings[some].to(self.dtype)
            part.copy_(torch.nn.functional.normalize(chosen, dim=1) if self.normalise else chosen)
        return out

    def own(self, query_rows: Tensor, gallery_rows: Tensor) -> Tensor:
        """Position of each of ``query_rows`` in ``gallery_rows`` (int64 [Q]), -1 where it is not there."""
        place = torch.full_like(self.labels, -1)
        place[gallery_rows] = torch.arange(gallery_rows.numel(), device=place.device)
        return place[query_rows]


def prepare(
    embeddings: Tensor,
    labels: Tensor,
    query: Tensor | None,
    gallery: Tensor | None,
    cameras: Tensor | None,
    normalise: bool,
) -> RetrievalSets:
    """Check the inputs. Without ``query`` or ``gallery`` all rows are meant."""
    _check_embeddings(embeddings)
    _check_per_row("labels", labels, embeddings)
    if cameras is not None:
        _check_per_row("cameras", cameras, embeddings)
        cameras = cameras.long()
    query_rows = _rows("query", query, embeddings)
    gallery_rows = query_rows if gallery is query else _rows("gallery", gallery, embeddings)
    if gallery is not None and gallery_rows.unique().numel() != gallery_rows.numel():
        raise InputError("gallery must name each row once, got a repeated row")
    return RetrievalSets(embeddings.detach(), labels.long(), query_rows, gallery_rows, cameras, normalise)


def _check_embeddings(value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"embeddings must be a torch.Tensor, got {type(value).__name__}")
    if value.ndim != 2:
        raise InputError(f"embeddings must have shape [N, D], got {list(value.shape)}")
    if value.dtype not in _FLOATS:
        raise InputError(f"embeddings must be float16, bfloat16, float32 or float64, got {value.dtype}")
    if value.shape[0] == 0 or value.shape[1] == 0:
        raise InputError(
            f"embeddings must hold at least one row and one column, got shape {list(value.shape)}"
        )
    bad = sum(int((~torch.isfinite(part.detach())).any(dim=1).sum()) for part in _parts(value))
    if bad:
        raise InputError(
            f"embeddings must be finite, got {bad} of {value.shape[0]} rows with NaN or infinity"
        )


def _check_per_row(name: str, value: Tensor, embeddings: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if list(value.shape) != [embeddings.shape[0]]:
        raise InputError(f"{name} must have shape [{embeddings.shape[0]}], got {list(value.shape)}")
    if value.dtype not in _INTEGERS:
        raise InputError(f"{name} must be of an integer dtype, got {value.dtype}")
    if value.device != embeddings.device:
        raise InputError(f"{name} must be on {embeddings.device} as embeddings is, got {value.device}")


def _rows(name: str, chosen: Tensor | None, embeddings: Tensor) -> Tensor:
    count, device = embeddings.shape[0], embeddings.device
    if chosen is None:
        return torch.arange(count, device=device)
    if not isinstance(chosen, Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(chosen).__name__}")
    if chosen.device != device:
        raise InputError(f"{name} must be on {device} as embeddings is, got {chosen.device}")
    if chosen.dtype == torch.bool:
        if list(chosen.shape) != [count]:
            raise InputError(f"{name} as a mask must have shape [{count}], got {list(chosen.shape)}")
        chosen = torch.nonzero(chosen).squeeze(1)
    if chosen.dtype not in _INTEGERS or chosen.ndim != 1:
        raise InputError(
            f"{name} must be a mask (bool [{count}]) or a vector of row numbers, "
            f"got {chosen.dtype} {list(chosen.shape)}"
        )
    if chosen.numel() == 0:
        raise InputError(f"{name} must choose at least one row, got none")
    lowest, highest = int(chosen.min()), int(chosen.max())
    if lowest < 0 or highest >= count:
        raise InputError(f"{name} must name rows in [0, {count - 1}], got {lowest} to {highest}")
    return chosen.long()


def _parts(value: Tensor) -> Iterator[Tensor]:
    return iter(value.split(_rows_together(value)))


def _rows_together(value: Tensor) -> int:
    return max(1, _TOGETHER // value.shape[1])
