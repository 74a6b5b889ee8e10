"""Batches larger than memory: embedded in chunks without graph, the loss once, the chunks again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastdml.errors import InputError
from fastdml.norm_statistics import NormStatistics


class CachedGradients:
    """The gradients of one big batch, in the memory of a chunk of it.

    A loss of all pairs needs all embeddings at once, but not what the network holds to make them. So the
    batch is embedded in chunks without a graph; the loss of all embeddings gives the gradient of each; and
    every chunk is embedded again, with a graph, into which its part of that gradient goes. The gradients are
    those of the whole batch, to rounding, at the price of a second forward. Gao et al., "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983.

    What draws random numbers, such as dropout, draws the same ones both times. BatchNorm in training mode
    normalises every chunk by itself, as it does on every rank of a data-parallel run; rows are dealt out to
    chunks like cards, so that the samples of a class, which often stand side by side, come into different
    ones. Its running statistics move once a batch, by the mean over the chunks; other buffers change in the
    first pass only. A frozen BatchNorm, LayerNorm and GroupNorm know no chunks.

    Autocast works around :meth:`backward`. A model in DistributedDataParallel exchanges its gradients once,
    with the last chunk; every rank then needs at least one row. For a gradient scaler let ``loss`` return
    ``scaler.scale(loss(embeddings))``.

    Args:
        model: from inputs to embeddings [n, D]; its gradients are added to, as by ``backward``.
        chunk: rows at a time.
        forward: ``forward(model, chunk)`` gives the embeddings; None calls ``model(chunk)``.
        summed: from a vector of this rank to its sum over all ranks, for the running statistics of BatchNorm
            without DistributedDataParallel; None: they are of this rank.

    Example:
        >>> cached = CachedGradients(model, chunk=256)
        >>> value = cached.backward(images, lambda embeddings: loss(embeddings, labels))
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        chunk: int = 256,
        *,
        forward: Callable[[nn.Module, Any], Tensor] | None = None,
        summed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if chunk < 1:
            raise InputError(f"chunk must be at least 1, got {chunk}")
        self.model, self.chunk = model, chunk
        self._forward = _call if forward is None else forward
        self._summed = summed
        self._random: list[_RandomState] = []
        self._norms = NormStatistics(nn.Identity())

    def backward(self, inputs: Any, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Add the gradients of ``loss(model(inputs))`` to those of the model, and of what the loss learns.

        Args:
            inputs: a tensor [N, ...], or dicts, lists and tuples of such, all of the same N.
            loss: from embeddings [N, D] to a scalar; called once.

        Returns:
            The loss, a scalar without graph.

        Raises:
            InputError: ``inputs`` hold no tensor, no row, or tensors of different lengths; or the loss is no
                scalar.
        """
        chunks, places = dealt(inputs, self.chunk)
        embeddings = torch.empty_like(found := self.embed(chunks))
        embeddings[places] = found
        self.move_statistics()
        embeddings.requires_grad_()
        value = loss(embeddings)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"loss must return a scalar, got {got}")
        if value.requires_grad:
            value.backward()
        gradient = torch.zeros_like(embeddings) if embeddings.grad is None else embeddings.grad
        self.propagate(chunks, gradient[places])
        return value.detach()

    def embed(self, chunks: Sequence[Any]) -> Tensor:
        """The first pass: embeddings [N, D] of all chunks, without a graph.

        What the second pass must see again is remembered: the states of random numbers. What the chunks have
        of means and variances waits for :meth:`move_statistics`.
        """
        self._random = []
        self._norms = NormStatistics(self.model)
        device = _device_of(self.model)
        parts = []
        with torch.no_grad():
            for chunk in chunks:
                self._random.append(_RandomState(device))
                with self._norms.gathered() as seen:
                    parts.append(self._forward(self.model, chunk))
                    seen.rows = len(parts[-1])
        torch.clear_autocast_cache()  # it holds weights cast without a graph
        return torch.cat(parts)

    def move_statistics(self) -> None:
        """Move the running statistics of BatchNorm by the first pass; ranks that share them all call it."""
        self._norms.update(self._summed)

    def propagate(self, chunks: Sequence[Any], gradient: Tensor) -> None:
        """The second pass: adds what ``gradient`` [N, D], that of the embeddings, is for the model.

        Args:
            chunks: those of :meth:`embed`.
            gradient: of the embeddings that it returned.
        """
        after = _RandomState(_device_of(self.model))
        buffers = KeptBuffers(self.model)
        first = 0
        try:
            for number, (chunk, state) in enumerate(zip(chunks, self._random, strict=True), 1):
                state.restore()
                with nullcontext() if number == len(chunks) else _without_exchange(self.model):
                    embeddings = self._forward(self.model, chunk)
                    if embeddings.requires_grad:
                        own = gradient[first : first + len(embeddings)]
                        embeddings.backward(own.to(embeddings.dtype))
                first += len(embeddings)
        finally:
            buffers.restore()
            after.restore()


class KeptBuffers:
    """The buffers of a model as they are now, whether they will be written to or replaced."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (module, name, buffer, buffer.clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Make them so again."""
        for module, name, buffer, value in self._kept:
            buffer.copy_(value)
            setattr(module, name, buffer)


def dealt(inputs: Any, size: int) -> tuple[list[Any], Tensor]:
    """Rows of a tensor [N, ...], or of dicts, lists and tuples of such, dealt out like cards.

    Returns:
        As few pieces as may be of at most ``size`` rows, the n-th of p with the rows n, n + p, n + 2 p, ...;
        and int64 [N] on the device of the inputs: where the rows of all pieces in turn stood.
    """
    leaves, structure = pytree.tree_flatten(inputs)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
        raise InputError("inputs must be tensors with a row for every sample, got something else among them")
    lengths = {len(leaf) for leaf in leaves}
    if len(lengths) > 1:
        raise InputError(f"inputs must all have the same number of rows, got {sorted(lengths)}")
    if lengths == {0}:
        raise InputError("inputs must have at least one row, got none")
    count = -(-len(leaves[0]) // size)
    pieces = [
        pytree.tree_unflatten([leaf[number::count] for leaf in leaves], structure) for number in range(count)
    ]
    rows = torch.arange(len(leaves[0]), device=leaves[0].device)
    return pieces, torch.cat([rows[number::count] for number in range(count)])


def _call(model: nn.Module, chunk: Any) -> Tensor:
    result: Tensor = model(chunk)
    return result


def _device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _without_exchange(model: nn.Module) -> AbstractContextManager[Any]:
    """In which DistributedDataParallel leaves gradients on their rank."""
    no_sync: Callable[[], AbstractContextManager[Any]] = getattr(model, "no_sync", nullcontext)
    return no_sync()


class _RandomState:
    """The states of the generators that a forward pass on a device draws from."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host = torch.get_rng_state()
        self.there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self.host)
        if self.there is not None:
            torch.cuda.set_rng_state(self.there, self.device)
