"""How much every sample counts in a loss of single samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.losses.listed import listed_tuple
from fastdml.miners import Mined


def element_weights(
    indices_tuple: Any, embeddings: Tensor, weights: Tensor | None, anchors_only: bool = False
) -> Tensor | None:
    """[B], what the losses of samples are multiplied with; None where all count alike.

    Args:
        indices_tuple: what a miner returned: each sample counts by how often it is in there, over the number
            of the one that is there most often. None, or one that lists nothing: all by 1.
        embeddings: [B, D] of the samples.
        weights: [B], of the caller; None: all 1.
        anchors_only: whether only anchors count as being in there.
    """
    count = len(embeddings)
    if weights is not None:
        if not isinstance(weights, Tensor) or weights.shape != (count,) or not weights.is_floating_point():
            got = f"{weights.dtype} {list(weights.shape)}" if isinstance(weights, Tensor) else repr(weights)
            raise InputError(f"weights must be a floating tensor of shape [{count}], got {got}")
        if weights.device != embeddings.device:
            raise InputError(f"weights must be on {embeddings.device} like embeddings, got {weights.device}")
    if indices_tuple is None:
        return weights
    if isinstance(indices_tuple, Mined):
        indices_tuple.check_sizes(count, count)
    listed = tuple(listed_tuple(indices_tuple, count, count, embeddings.device))
    if anchors_only:
        listed = listed[:1] if len(listed) == 3 else (listed[0], listed[2])
    numbers = torch.bincount(torch.cat(listed), minlength=count)
    numbers = torch.where(numbers.sum() > 0, numbers, 1).to(torch.float64)
    mined = numbers / numbers.max().clamp_min(1)
    return mined if weights is None else mined * weights
