"""What :func:`fastdml.rules.check` asks of a rule in the engine: value, backends and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from fastdml.backends.registry import reason_against, use_backend
from fastdml.backends.triton import interpreted
from fastdml.engines.pair import pair_losses
from fastdml.rules.base import PairRule, Reduced, RowLosses
from fastdml.rules.check_terms import shown, where
from fastdml.rules.closeness import Closeness
from fastdml.rules.selection import EVERYTHING, Selection


class _Batch(NamedTuple):
    """A small batch in float32; ``own`` says which candidate each anchor is."""

    name: str
    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None = None
    ref_labels: Tensor | None = None
    own: Tensor | None = None
    selection: Selection = EVERYTHING


def _batches() -> Iterator[_Batch]:
    random = torch.Generator().manual_seed(0)

    def rows(count: int, width: int = 10) -> Tensor:
        # off centre, so that closeness spreads over the range in which a selection chooses
        return torch.randn(count, width, generator=random) + 0.4

    def classes(count: int, number: int) -> Tensor:
        return torch.randint(number, (count,), generator=random)

    plain, labels = rows(48), classes(48, 8)
    yield _Batch("plain", plain, labels)
    yield _Batch("selection", plain, labels, selection=Selection(True, 0.1, 0.1))
    # of length 8 exactly, so that copies are at distance zero in every dtype and on every backend
    digits = torch.tensor([7.0, 3, 2, 1, 1, 0, 0, 0, 0, 0])
    signs = torch.randint(2, (8, 10), generator=random) * 2 - 1
    ties = torch.stack([digits[torch.randperm(10, generator=random)] for _ in range(8)]) * signs
    yield _Batch("ties and copies", ties.repeat(4, 1), torch.arange(8).repeat(4) // 2)
    yield _Batch("anchors without positives", rows(30), torch.cat([classes(15, 3), torch.arange(15) + 100]))
    yield _Batch("one class", rows(12), torch.zeros(12, dtype=torch.int64))
    candidates, ref_labels = rows(40), classes(40, 6)
    own = torch.arange(25).where(torch.arange(25) < 20, -1)
    anchors = torch.cat([candidates[:20], rows(5)])
    yield _Batch(
        "candidates", anchors, torch.cat([ref_labels[:20], classes(5, 6)]), candidates, ref_labels, own
    )


class _MalformedError(Exception):
    """What a rule's value returned is no losses of anchors."""


def _run(
    rule: PairRule, closeness: Closeness, row: float | None, batch: _Batch, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """Totals, counts and gradients of a batch, by what they are called; in float64 whatever they were
    computed in.
    """
    leaves = [batch.embeddings.to(device, dtype).requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.to(device, dtype).requires_grad_())
    count, rows = len(batch.labels), None
    if row is not None:
        rows = (row + torch.linspace(-0.1, 0.1, count)).to(device, dtype).requires_grad_()
        leaves.append(rows)
    losses = pair_losses(
        rule, leaves[0], batch.labels.to(device),
        None if batch.ref_embeddings is None else leaves[1],
        None if batch.ref_labels is None else batch.ref_labels.to(device),
        closeness=closeness, own=None if batch.own is None else batch.own.to(device), row=rows,
        selection=batch.selection,
    )  # fmt: skip
    problem = _malformed(losses, count)
    if problem is not None:
        raise _MalformedError(problem)
    # anchors and kinds of losses weigh differently, so that none can stand for another
    weights = torch.linspace(0.5, 1.5, count, device=device)
    weighted = torch.stack(
        [(kind + 1) * (one.total * weights).sum() for kind, one in enumerate(losses.values())]
    ).sum()
    names = ["the gradient of the anchors", "the gradient of the candidates"][: 1 + (batch.own is not None)]
    names += ["the gradient of row"] * (rows is not None)
    gradients = torch.autograd.grad(weighted, leaves, allow_unused=True, materialize_grads=True)
    numbers = {f"the total of {name!r}": one.total for name, one in losses.items()}
    numbers |= {f"the count of {name!r}": one.count for name, one in losses.items() if one.count is not None}
    numbers |= dict(zip(names, gradients, strict=True))
    return {name: value.detach().cpu().double() for name, value in numbers.items()}


def _malformed(losses: Any, count: int) -> str | None:
    accepted = "a dict of fastdml.rules.RowLosses by name, such as fastdml.rules.element(total)"
    if not isinstance(losses, dict) or not losses:
        got = f"a tensor {list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        return f"must return {accepted}, got {got if losses != {} else 'an empty dict'}"
    for name, one in losses.items():
        if not isinstance(name, str) or not isinstance(one, RowLosses):
            return f"must return {accepted}, got {type(one).__name__} of name {name!r}"
        if one.kind == "already_reduced" and isinstance(one.total, Tensor) and one.total.numel() == 1:
            continue
        for part in ("total", "count"):
            value = getattr(one, part)
            if value is None and part == "count":
                continue
            if not isinstance(value, Tensor) or list(value.shape) != [count]:
                got = str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
                return f"must return {part} of {name!r} of shape [{count}], one entry an anchor, got {got}"
        if one.kind not in get_args(Reduced):
            return f"must return kind of {name!r} one of {', '.join(get_args(Reduced))}, got {one.kind!r}"
        if (one.count is None) != (one.kind == "element"):
            return f"must return count of {name!r} exactly where its kind is not 'element', got {one.kind!r}"
        if one.divisor is not None and one.divisor.ndim:
            return f"must return divisor of {name!r} a scalar, got shape {list(one.divisor.shape)}"
    if not any(one.total.requires_grad for one in losses.values()):
        return "must be differentiable, got losses that no gradient flows through"
    return None


class Reference(NamedTuple):
    """What the dense reference makes of a batch: in float64, which is the truth, and in float32."""

    batch: _Batch
    truth: dict[str, Tensor]
    dense: dict[str, Tensor]


def references(rule: PairRule, closeness: Closeness, row: float | None) -> tuple[list[Reference], list[str]]:
    """The reference of every batch, and whether its losses and gradients are well formed and finite."""
    found = []
    for batch in _batches():
        numbers = []
        for dtype in (torch.float64, torch.float32):
            try:
                with use_backend("reference"):
                    numbers.append(_run(rule, closeness, row, batch, dtype, "cpu"))
            except _MalformedError as problem:
                return [], [f"{where(rule.value)} {problem}"]
            except Exception as error:
                return [], [f"{where(rule.value)} raised {shown(error)} on the batch {batch.name!r}"]
            for name, value in numbers[-1].items():
                if not value.isfinite().all():
                    bad = value[~value.isfinite()].flatten()[0].item()
                    return [], [
                        f"{where(rule.value)} must be finite with its gradient, "
                        f"got {bad} in {name} on the batch {batch.name!r}, {dtype}"
                    ]
        found.append(Reference(batch, *numbers))
    return found, []


def reason_to_skip(rule: PairRule, closeness: Closeness, backend: str) -> str | None:
    """Why a backend has nothing to check here, None where it has."""
    return rule.unsupported(closeness, backend, torch.float32) or reason_against(backend)


def backend_problems(
    rule: PairRule, closeness: Closeness, row: float | None, backend: str, known: list[Reference]
) -> tuple[str, list[str]]:
    """How near to the limit the errors of a backend come, and which go beyond.

    Errors against the reference in float64 may be twice those of the reference in float32, plus 1e-6 of the
    scale for where that happens to be exact.
    """
    device = "cuda" if backend == "cuda" or (backend == "triton" and not interpreted()) else "cpu"
    problems: list[str] = []
    nearest = 0.0
    for batch, truth, dense in known:
        try:
            with use_backend(backend):
                found = _run(rule, closeness, row, batch, torch.float32, device)
        except Exception as error:
            return "", [*problems, f"on the batch {batch.name!r} raised {shown(error)}"]
        for name, value in truth.items():
            scale = value.abs().max().item()
            allowed = 2 * (dense[name] - value).abs().max().item() + 1e-6 * scale + 1e-13
            off = (found[name] - value).abs().max().item()
            nearest = max(nearest, off / allowed)
            if not off <= allowed:
                problems.append(
                    f"on the batch {batch.name!r}, {name} must be within {allowed:.1e} of the reference, "
                    f"got an error of {off:.1e} where values reach {scale:.1e}"
                )
    return f"errors at most {nearest:.0%} of what is allowed", problems


def compile_problems(rule: PairRule, closeness: Closeness, row: float | None) -> list[str]:
    """Whether torch.compile takes the loss in one graph, and gives the same."""
    batch = next(_batches())
    rows = None if row is None else torch.full((len(batch.labels),), row)

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        found = pair_losses(rule, embeddings, labels, closeness=closeness, row=rows)
        return torch.stack([one.total.sum() for one in found.values()]).sum()

    torch.compiler.reset()  # else the rules of earlier checks count towards its limit of recompilations
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    try:
        with use_backend("blocked"):
            results = []
            for function in (loss, compiled):
                leaf = batch.embeddings.clone().requires_grad_()
                value = function(leaf, batch.labels)
                value.backward()
                results.append((value.detach(), leaf.grad))
    except Exception as error:
        return [f"raised {shown(error)}"]
    for name, eager, found in zip(("loss", "gradient"), *results, strict=True):
        assert eager is not None
        assert found is not None
        off = (found - eager).abs().max().item()
        if not off <= 1e-5 * eager.abs().max().item():
            return [f"must give the same {name} as without it, got one that differs by {off:.1e}"]
    return []
