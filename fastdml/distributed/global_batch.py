"""The batches of all ranks as one, of any sizes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastdml.backends.dtypes import accumulator
from fastdml.distributed.collectives import GatheredEmbeddings, GatheredValues, Parts, gathered
from fastdml.errors import InputError
from fastdml.functional import FLOAT_DTYPES


class GlobalBatch(NamedTuple):
    """What the ranks gave, in the order of the ranks."""

    embeddings: Tensor
    """[B, D] in the accumulator dtype; its gradient is summed over the ranks."""
    labels: Tensor
    """[B], int64."""
    weights: Tensor | None
    """[B] in the accumulator dtype; None where no rank gave any."""


def gather_batch(
    embeddings: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    *,
    group: dist.ProcessGroup | None,
    centers: int,
    factor: int,
) -> GlobalBatch:
    """The batches of all ranks; each calls it, or :func:`announce_error`.

    Args:
        embeddings: [b, D] of this rank.
        labels: [b], int64.
        weights: [b], or None: ones, where another rank gives some.
        group: the ranks.
        centers: what the loss has of them on all ranks together, which must agree.
        factor: what the gradient of the embeddings is multiplied with.

    Raises:
        InputError: another rank has announced an error, or has other centres or another dtype.
    """
    embeddings, parts, weighted = divided(embeddings, group, weighted=weights is not None, centers=centers)
    wide = accumulator(embeddings.dtype)
    if weighted:
        weights = embeddings.new_ones(len(embeddings)) if weights is None else weights
        weights = GatheredValues.apply(weights.to(wide), parts)
    return GlobalBatch(
        GatheredEmbeddings.apply(embeddings, parts, wide, factor), gathered(labels, parts), weights
    )


def divided(
    embeddings: Tensor,
    group: dist.ProcessGroup | None,
    *,
    weighted: bool = False,
    centers: int = 0,
    form: int = 0,
) -> tuple[Tensor, Parts, bool]:
    """How the ranks divide the global batch; each calls it, or :func:`announce_error`.

    Args:
        embeddings: [b, D] of this rank.
        group: the ranks.
        weighted: whether this rank gives weights.
        centers: how many the loss has on all ranks together, which must agree.
        form: in what form labels and all else are given, as a number that must agree.

    Returns:
        The embeddings, which take part in a backward where those of any rank do; the parts; and whether any
        rank gives weights.

    Raises:
        InputError: another rank has announced an error, or gives what does not go with this rank's.
    """
    needs = embeddings.requires_grad and torch.is_grad_enabled()
    dtype = FLOAT_DTYPES.index(embeddings.dtype)
    own = _Header(
        0, len(embeddings), int(needs), int(weighted), dtype, centers, int(embeddings.shape[1]), form
    )
    headers = _exchanged(own, group, embeddings.device)
    for rank, other in enumerate(headers):
        _check(own, other, rank)
    parts = Parts(tuple(header.samples for header in headers), dist.get_rank(group), group)
    if any(header.needs_grad for header in headers) and not embeddings.requires_grad:
        embeddings = embeddings.detach().requires_grad_()  # all ranks take part in the backward, or none
    return embeddings, parts, any(header.weighted for header in headers)


def announce_error(group: dist.ProcessGroup | None, device: torch.device) -> None:
    """In place of a batch, so that no other rank waits for it: all raise InputError."""
    _exchanged(_Header(faulty=1), group, device)


class _Header(NamedTuple):
    """What a rank tells the others before it sends its batch."""

    faulty: int
    samples: int = 0
    needs_grad: int = 0
    weighted: int = 0
    dtype: int = 0
    centers: int = 0
    width: int = 0
    form: int = 0


def _exchanged(own: _Header, group: dist.ProcessGroup | None, device: torch.device) -> list[_Header]:
    """Those of all ranks."""
    parts = Parts((1,) * dist.get_world_size(group), dist.get_rank(group), group)
    received = gathered(torch.tensor([own], device=device), parts)
    return [_Header(*numbers) for numbers in received.tolist()]


def _check(own: _Header, other: _Header, rank: int) -> None:
    """Raises InputError unless another rank's batch goes with this one's."""
    if other.faulty:
        raise InputError(f"the arguments must fit on every rank, got an error on rank {rank}")
    if other.dtype != own.dtype:
        wanted, got = (str(FLOAT_DTYPES[x.dtype]).removeprefix("torch.") for x in (other, own))
        raise InputError(f"embeddings must have the dtype of rank {rank}, {wanted}, got {got}")
    if other.centers != own.centers:
        raise InputError(
            f"loss must have the {other.centers} centres of that of rank {rank}, got {own.centers}"
        )
    if other.width != own.width:
        raise InputError(
            f"embeddings must have shape [B, {other.width}] like those of rank {rank}, got [B, {own.width}]"
        )
    if other.form != own.form:
        raise InputError(
            f"labels, confidence and weights must be given in the form of those of rank {rank}: numbers or "
            "soft labels, of as many classes and the same dtypes"
        )
