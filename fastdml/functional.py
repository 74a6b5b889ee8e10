"""The losses as functions; the modules of :mod:`fastdml.losses` call these."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastdml.engines.pair import pair_losses
from fastdml.errors import InputError
from fastdml.rules import MultiSimilarity, Selection

INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def multi_similarity(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = None,
    duplicate: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Multi-Similarity loss with pair mining fused in (CVPR 2019, arXiv 1904.06627).

    Args:
        embeddings: [N, D], float32, bfloat16, float16 or float64; normalised inside.
        labels: [N], any integer dtype.
        ref_embeddings: [M, D] candidates to compare with instead of the batch itself.
        ref_labels: [M] their labels.
        alpha: sharpness of the positive term.
        beta: sharpness of the negative term.
        base: similarity at which a pair starts to count.
        epsilon: mining margin; None keeps every pair.
        duplicate: positives at least this similar are dropped as copies; None keeps them.
        reduction: "mean" over all anchors, "sum", or "none" for the [N] losses.

    Returns:
        A scalar, or [N] for reduction "none"; an empty batch gives a differentiable zero.

    Raises:
        InputError: an argument of the wrong shape, dtype or device.
        BackendError: the backend that was asked for cannot run here.
    """
    labels, ref_labels = check_pairs(embeddings, labels, ref_embeddings, ref_labels)
    losses = pair_losses(
        MultiSimilarity(alpha, beta, base), embeddings, labels, ref_embeddings, ref_labels,
        selection=mining(epsilon, duplicate),
    )  # fmt: skip
    return reduce_losses(losses["loss"].total, reduction)


def mining(epsilon: float | None, duplicate: float | None = None) -> Selection:
    """The selection of Multi-Similarity mining with a margin; None keeps every pair.

    Raises:
        InputError: a margin that is not finite.
    """
    if epsilon is not None and not math.isfinite(epsilon):
        raise InputError(f"epsilon must be a finite number or None, got {epsilon!r}")
    limit = math.inf if duplicate is None else duplicate
    return Selection(duplicate=limit) if epsilon is None else Selection(True, epsilon, epsilon, limit)


def reduce_losses(losses: Tensor, reduction: str) -> Tensor:
    """The mean, the sum or all of the losses [N]; the mean of none is zero."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.mean() if losses.shape[0] else losses.sum()
    raise InputError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def check_pairs(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The labels as int64, once every argument of a pair loss is found to fit.

    Raises:
        InputError: names the argument, what it was and what is accepted.
    """
    check_rows("embeddings", embeddings)
    labels = check_labels("labels", labels, "embeddings", embeddings)
    if ref_embeddings is None and ref_labels is None:
        return labels, None
    if ref_embeddings is None or ref_labels is None:
        given, missing = ("ref_emb", "ref_labels") if ref_labels is None else ("ref_labels", "ref_emb")
        raise InputError(f"{missing} must be given together with {given}, got None")
    check_rows("ref_emb", ref_embeddings)
    if ref_embeddings.shape[1] != embeddings.shape[1]:
        raise InputError(
            f"ref_emb must have shape [M, {embeddings.shape[1]}] like embeddings, "
            f"got {list(ref_embeddings.shape)}"
        )
    for attribute in ("dtype", "device"):
        wanted, got = getattr(embeddings, attribute), getattr(ref_embeddings, attribute)
        if wanted != got:
            raise InputError(f"ref_emb must have the {attribute} of embeddings, {wanted}, got {got}")
    return labels, check_labels("ref_labels", ref_labels, "ref_emb", ref_embeddings)


def check_own(own: Tensor | None, embeddings: Tensor, ref_embeddings: Tensor | None) -> None:
    """Checks the candidate that each anchor is.

    Raises:
        InputError: names the argument, what it was and what is accepted.
    """
    if own is None:
        return
    if ref_embeddings is None:
        raise InputError("own must be None without ref_emb, where every embedding is its own candidate")
    if not isinstance(own, Tensor) or own.dtype != torch.int64 or own.shape != embeddings.shape[:1]:
        got = f"{own.dtype} {list(own.shape)}" if isinstance(own, Tensor) else type(own).__name__
        raise InputError(f"own must be int64 [{len(embeddings)}], got {got}")


def check_rows(name: str, rows: Tensor) -> None:
    """Raises InputError unless rows are [N, D] of a floating dtype that the losses take."""
    if not isinstance(rows, Tensor):
        raise InputError(f"{name} must be a tensor of shape [N, D], got {type(rows).__name__}")
    if rows.ndim != 2:
        raise InputError(f"{name} must have shape [N, D], got {list(rows.shape)}")
    if rows.dtype not in FLOAT_DTYPES:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES)
        raise InputError(f"{name} must be one of {accepted}, got {str(rows.dtype).removeprefix('torch.')}")


def check_labels(name: str, labels: Tensor, rows_name: str, rows: Tensor) -> Tensor:
    """The labels as int64; raises InputError unless there is one of each row, on its device."""
    if not isinstance(labels, Tensor):
        raise InputError(f"{name} must be a tensor of shape [{rows.shape[0]}], got {type(labels).__name__}")
    if labels.ndim != 1 or labels.shape[0] != rows.shape[0]:
        raise InputError(f"{name} must have shape [{rows.shape[0]}], got {list(labels.shape)}")
    if labels.dtype not in INTEGER_DTYPES:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in INTEGER_DTYPES)
        raise InputError(f"{name} must be one of {accepted}, got {str(labels.dtype).removeprefix('torch.')}")
    if labels.device != rows.device:
        raise InputError(f"{name} must be on {rows.device} like {rows_name}, got {labels.device}")
    return labels.to(torch.int64)
