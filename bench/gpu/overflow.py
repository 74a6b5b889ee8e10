"""Sizes past 2^31: N^2 of a batch with itself, N D of anchors and of candidates; the last rows are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench import blocked, dense
from bench.blocked import EPSILON
from bench.gpu.proof import Setting, relative_error, require
from bench.workload import PER_CLASS, Workload
from fastdml.functional import multi_similarity

LAST = 64
ALLOWED = {"float32": 1e-3, "bfloat16": 5e-2}
"""Relative errors; an index that overflowed is off by all, or ends the process."""
CHUNK = 1 << 18


def overflow(setting: Setting, backend: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """One case a place where an index could overflow."""
    count = 600 if setting.tiny else 65536 + 72
    yield (
        f"N^2, N = {count}",
        partial(_pairs, setting, backend, Workload(count, 64, "float32", setting.device)),
    )
    long, width = (600, 48) if setting.tiny else ((1 << 22) + 200, 512)
    for dtype in ("bfloat16", "float32"):
        yield f"M D, M = {long}, {dtype}", partial(_candidates, setting, backend, long, width, dtype)
        yield f"N D, N = {long}, {dtype}", partial(_anchors, setting, backend, long, width, dtype)


def _pairs(setting: Setting, backend: str, work: Workload) -> str:
    embeddings, labels = work.make()
    with fastdml.use_backend(backend):
        loss = multi_similarity(embeddings, labels, epsilon=EPSILON)
        loss.backward()
    exact = embeddings.detach().double().requires_grad_()
    truth = blocked.multi_similarity(exact, labels)
    truth.backward()
    assert embeddings.grad is not None
    assert exact.grad is not None
    errors = {
        "loss": relative_error(loss.detach(), truth.detach()),
        "gradient": relative_error(embeddings.grad, exact.grad),
        "last rows": relative_error(embeddings.grad[-LAST:], exact.grad[-LAST:]),
    }
    return judge(errors, ALLOWED["float32"])


def _candidates(setting: Setting, backend: str, count: int, width: int, dtype: str) -> str:
    """Few anchors, so many candidates that their matrix has more than 2^31 elements."""
    anchors, labels, refs, ref_labels = _sides(setting, LAST, count, width, dtype)
    with fastdml.use_backend(backend):
        losses = multi_similarity(anchors, labels, refs, ref_labels, epsilon=EPSILON, reduction="none")
        losses.sum().backward()
    assert refs.grad is not None
    truth, weights, unit = _weights(anchors.detach(), labels, refs.detach(), ref_labels)
    errors = {"losses": relative_error(losses.detach(), truth)}
    for name, rows in (("first", slice(0, LAST)), ("last", slice(count - LAST, count))):
        exact = _through_norm(refs.detach()[rows], weights[:, rows].T @ unit)
        errors[f"{name} gradients"] = relative_error(refs.grad[rows], exact)
    return judge(errors, ALLOWED[dtype])


def _anchors(setting: Setting, backend: str, count: int, width: int, dtype: str) -> str:
    """So many anchors, few candidates; rows are independent, so the last ones can be recomputed alone."""
    refs, ref_labels, anchors, labels = _sides(setting, 2 * LAST, count, width, dtype)
    with fastdml.use_backend(backend):
        losses = multi_similarity(anchors, labels, refs, ref_labels, epsilon=EPSILON, reduction="none")
        losses[-LAST:].sum().backward()
    assert anchors.grad is not None
    exact = anchors.detach()[-LAST:].double().requires_grad_()
    with fastdml.use_backend("reference"):
        truth = multi_similarity(
            exact, labels[-LAST:], refs.detach().double(), ref_labels,
            epsilon=EPSILON, reduction="none",
        )  # fmt: skip
    truth.sum().backward()
    assert exact.grad is not None
    errors = {
        "last losses": relative_error(losses.detach()[-LAST:], truth.detach()),
        "last gradients": relative_error(anchors.grad[-LAST:], exact.grad),
        "first gradients, which are zero": float(anchors.grad[:LAST].abs().max()),
    }
    return judge(errors, ALLOWED[dtype])


def _sides(
    setting: Setting, few: int, many: int, width: int, dtype: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two sides of as many classes, rows and labels of the few and of the many; every class is on both."""
    classes = max(2, few // PER_CLASS)
    generator = torch.Generator(setting.device).manual_seed(many)
    sides: list[Tensor] = []
    centres = torch.randn(classes, width, generator=generator, device=setting.device)
    for count in (few, many):
        labels = torch.arange(count, device=setting.device) % classes
        rows = torch.empty(count, width, device=setting.device, dtype=getattr(torch, dtype))
        rows.normal_(generator=generator).mul_(2).add_(centres.to(rows.dtype)[labels])
        sides += [rows.requires_grad_(), labels]
    return sides[0], sides[1], sides[2], sides[3]


def _weights(
    anchors: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [A], their gradient in the similarities [A, M], and the anchors' unit rows, all in float64."""
    unit = F.normalize(anchors.double(), dim=1)
    pieces = [unit @ F.normalize(piece.double(), dim=1).T for piece in refs.split(CHUNK)]
    similarity = torch.cat(pieces, dim=1).requires_grad_()
    del pieces
    positive = labels[:, None] == ref_labels[None, :]
    losses = dense.losses(similarity, positive, ~positive)
    (weights,) = torch.autograd.grad(losses.sum(), similarity)
    return losses.detach(), weights, unit


def _through_norm(rows: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in rows, given that in their unit vectors."""
    leaf = rows.double().requires_grad_()
    F.normalize(leaf, dim=1).backward(gradient)
    assert leaf.grad is not None
    return leaf.grad


def judge(errors: dict[str, float], allowed: float) -> str:
    """Fails unless every error is at most ``allowed``."""
    said = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    require(all(error <= allowed for error in errors.values()), f"allowed {allowed:.0e}: {said}")
    return said
