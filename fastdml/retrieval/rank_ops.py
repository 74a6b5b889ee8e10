"""The operator that counts ranks in C++ on the CPU: schema and shape inference."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.backends.registry import asked_backend, reason_against

_library = torch.library.Library("fastdml", "FRAGMENT")
_library.define(
    "rank_positives_cpu(Tensor queries, Tensor? gallery, Tensor spans, Tensor offsets, Tensor slack, "
    "Tensor? query_cameras, Tensor? gallery_cameras) -> Tensor"
)


@torch.library.register_fake("fastdml::rank_positives_cpu", lib=_library)
def _(
    queries: Tensor,
    gallery: Tensor | None,
    spans: Tensor,
    offsets: Tensor,
    slack: Tensor,
    query_cameras: Tensor | None,
    gallery_cameras: Tensor | None,
) -> Tensor:
    return queries.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int32)


def runs_here(device: torch.device) -> bool:
    """Whether the C++ operator takes tensors of the device now; else plain PyTorch counts."""
    return device.type == "cpu" and asked_backend() in (None, "cpu") and reason_against("cpu") is None
