"""Retrieval on a split of a data set: pixels or a network's embeddings, queries against gallery."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdml.data import Split
from fastdml.retrieval import RetrievalResult, evaluate

KS = (1, 2, 4, 8)
_EMBED_BATCH = 256


@dataclass(frozen=True)
class SplitRetrieval:
    """An evaluation of a split, with the row of the split that each query and gallery entry is.

    query_rows int64 [Q] and gallery_rows int64 [G] index the split's images.
    """

    result: RetrievalResult
    query_rows: Tensor
    gallery_rows: Tensor


@torch.inference_mode()
def embed(model: nn.Module, split: Split, device: torch.device) -> Tensor:
    """Embeddings float32 [N, D] of a split's images in evaluation mode, on the CPU."""
    was_training = model.training
    model.eval()
    try:
        parts = torch.arange(len(split)).split(_EMBED_BATCH)
        return torch.cat([model(split.batch(rows).to(device)).cpu() for rows in parts])
    finally:
        model.train(was_training)


def raw_pixels(split: Split) -> Tensor:
    """The images themselves as vectors, float32 [N, C H W]: what retrieval is without any learning."""
    return split.batch(torch.arange(len(split))).flatten(1)


def retrieve(embeddings: Tensor, split: Split) -> SplitRetrieval:
    """Recall@1, 2, 4, 8 of the split's queries against its gallery; a query never finds itself."""
    query_rows = torch.nonzero(split.is_query).squeeze(1)
    gallery_rows = torch.nonzero(split.is_gallery).squeeze(1)
    result = evaluate(embeddings, split.labels, KS, query=split.is_query, gallery=split.is_gallery)
    return SplitRetrieval(result, query_rows, gallery_rows)
