"""One update of a network by a batch of any size: in chunks, over processes, in mixed precision."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdml.cached_gradients import CachedGradients, KeptBuffers
from fastdml.errors import InputError
from fastdml.functional import FLOAT_DTYPES
from fastdml.norm_statistics import NormStatistics
from fastdml.training.network import global_gradient_norm
from fastdml.training.processes import Processes
from fastdml.training.views import Views

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in."""
OUT_OF_MEMORY = object()
_NO_MEMORY = (  # of errors that have no type of their own
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class Piece(NamedTuple):
    """What goes through the network at once."""

    number: int
    """Its place among the chunks of the whole batch, of all processes."""
    rows: Tensor
    """int64 [n], of the split."""
    images: Tensor
    """uint8 [n, C, H, W] or features float32 [n, F], as they are stored."""

    of: int
    """How many chunks the whole batch has."""

    def halves(self) -> list[Piece]:
        """Both halves, as twice as many chunks would have been dealt out."""
        return [
            Piece(self.number + i * self.of, self.rows[i::2], self.images[i::2], 2 * self.of)
            for i in range(2)
        ]


@dataclass(frozen=True)
class Update:
    """What one step did; seconds by part."""

    loss: float
    gradient_norm: float
    network_seconds: float
    loss_seconds: float
    update_seconds: float


class NonFiniteBatchError(RuntimeError):
    """The loss, or its gradient, was NaN or infinite; raised on every process before anything is changed."""

    def __init__(self, rows: Tensor, images: Tensor, embeddings: Tensor, loss: float) -> None:
        super().__init__(f"loss {loss}")
        self.rows, self.images, self.embeddings, self.loss = rows, images, embeddings, loss


class ChunkMemoryError(RuntimeError):
    """The memory does not hold a chunk, nor half of one."""


class LargeStep:
    """Makes the update of one batch.

    A single chunk goes through the network once, with its graph; several go through it twice, see
    :class:`fastdml.CachedGradients`. What is drawn at random for a chunk depends on the seed, the step and
    the number of the chunk alone, and BatchNorm on the rows of the chunk: so the result does not depend on
    which process has which chunk.

    Args:
        model: the network; its gradients are summed over the processes.
        loss: of the batches of all processes.
        optimiser: updates both.
        processes: those of the run.
        views: what the network is shown of images.
        seed: of the run.
        precision: one of ``PRECISIONS``.
        note: told what a person should know.
        on_chunk: told how many chunks of how many have gone through the network, both passes counted.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optimiser: torch.optim.Optimizer,
        processes: Processes,
        views: Views,
        seed: int,
        precision: str,
        note: Callable[[str], None],
        on_chunk: Callable[[int, int], None],
    ) -> None:
        self.model, self.loss, self.optimiser = model, loss, optimiser
        self.processes, self.views, self.seed = processes, views, seed
        self.precision = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=precision == "fp16")
        self.halved = False
        """Whether memory has run out once, so that chunks are half as large."""
        self._note, self._on_chunk = note, on_chunk
        self._step = self._done = self._passes = 0
        self._form: Tensor | None = None

    def __call__(
        self, step: int, pieces: Sequence[Piece], value_of: Callable[[Tensor, Tensor], Tensor]
    ) -> Update:
        """Make the ``step``-th update by this process's pieces of the batch.

        Args:
            step: its number from 1.
            pieces: in the order of the batch.
            value_of: the loss, from embeddings [n, D] of this process and their rows of the split, int64 [n].

        Raises:
            NonFiniteBatchError: nothing was changed.
            ChunkMemoryError: out of memory, though the chunks were halved.
        """
        self._step = step
        if self.halved:
            pieces = _halved(pieces)
        before = _Kept(self.model, self.loss)
        try:
            update = self._attempt(pieces, value_of)
            if update is None:
                before.restore()
                self.halved = True
                update = self._attempt(_halved(pieces), value_of)
        except NonFiniteBatchError:
            before.restore()
            raise
        assert update is not None
        return update

    def _attempt(
        self, pieces: Sequence[Piece], value_of: Callable[[Tensor, Tensor], Tensor]
    ) -> Update | None:
        """The update; None where memory ran out on any process and may be tried with halves."""
        self.optimiser.zero_grad(set_to_none=True)
        pieces = [piece for piece in pieces if len(piece.rows)]
        twice = len(pieces) > 1
        self._done, self._passes = 0, len(pieces) * (2 if twice else 1)
        begun = time.perf_counter()
        way = _InTwoPasses(self) if twice else _InOnePass(self)
        embeddings = self._guarded(lambda: way.embed(pieces))
        if embeddings is OUT_OF_MEMORY:
            return None
        way.move_statistics()
        cut = self._cut(embeddings)
        self._wait()
        embedded = time.perf_counter()
        value = self._loss_of(cut, pieces, value_of)
        loss_done = time.perf_counter()
        gradient = torch.zeros_like(cut) if cut.grad is None else cut.grad
        if self._guarded(lambda: way.propagate(pieces, gradient)) is OUT_OF_MEMORY:
            return None
        self._wait()
        propagated = time.perf_counter()
        self.processes.sum_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimiser)
        norm = global_gradient_norm(self.model)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._wait()
        return Update(
            loss=value,
            gradient_norm=norm,
            network_seconds=embedded - begun + propagated - loss_done,
            loss_seconds=loss_done - embedded,
            update_seconds=time.perf_counter() - propagated,
        )

    def _cut(self, embeddings: Tensor | None) -> Tensor:
        """What the loss is given: embeddings cut from the network, of no rows where this process has none.

        In float32 where the network computes in float16, which scaled gradients of a loss overflow.
        """
        own = None if embeddings is None else embeddings.detach()
        if own is not None and own.dtype == torch.float16:
            own = own.float()
        if self._form is None:
            own_form = (0, 0) if own is None else (own.shape[1], FLOAT_DTYPES.index(own.dtype))
            width, dtype = map(int, self.processes.greatest(*own_form))
            if not width:
                raise InputError("data must have images that can be read, got none in the first batch")
            self._form = torch.zeros(0, width, dtype=FLOAT_DTYPES[dtype], device=self.processes.device)
        return (self._form.clone() if own is None else own).requires_grad_()

    def _loss_of(
        self, cut: Tensor, pieces: Sequence[Piece], value_of: Callable[[Tensor, Tensor], Tensor]
    ) -> float:
        """The loss of embeddings, which get their gradient."""
        rows = torch.cat([piece.rows for piece in pieces]) if pieces else torch.zeros(0, dtype=torch.int64)
        torch.manual_seed(_seed_of(self.seed, self._step))  # what the loss draws is the same on all processes
        value = value_of(cut, rows)
        if value.requires_grad:
            self.scaler.scale(value).backward()
        learnt = [parameter.grad for parameter in self.loss.parameters() if parameter.grad is not None]
        found = (value.detach(), *([] if cut.grad is None else [cut.grad]), *learnt)
        finite = bool(torch.stack([torch.isfinite(one).all() for one in found]).all())
        if self.processes.any(not finite):
            images = torch.cat([piece.images for piece in pieces]) if pieces else torch.zeros(0)
            raise NonFiniteBatchError(rows, images, cut.detach(), float(value.detach()))
        self._wait()
        return float(value.detach())

    def forward(self, piece: Piece) -> Tensor:
        """The embeddings of a piece, [n, D]; the same each time within a step."""
        seed = _seed_of(self.seed, self._step, piece.number)
        inputs = self.views.of_training(piece.images, seed, self.processes.device)
        torch.manual_seed(seed)
        with self.autocast():
            embeddings: Tensor = self.model(inputs)
        self._done += 1
        self._on_chunk(self._done, self._passes)
        return embeddings

    def autocast(self) -> AbstractContextManager[Any]:
        """In which the network computes in the precision of the run."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.processes.device.type, self.precision)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; OUT_OF_MEMORY where it was, on any process, for the first time."""
        found, error = None, None
        try:
            found = work()
        except (RuntimeError, MemoryError) as raised:
            if not is_out_of_memory(raised):
                raise
            error = f"{raised}".splitlines()[0]
        if not self.processes.any(error is not None):
            return found
        where = error or "on another process"
        if self.halved:
            raise ChunkMemoryError(f"out of memory, with chunks of half the size too: {where}")
        if self.processes.device.type == "cuda":
            torch.cuda.empty_cache()
        self._note(f"out of memory at step {self._step}: chunks are half as large from now on ({where})")
        return OUT_OF_MEMORY

    def _wait(self) -> None:
        if self.processes.device.type == "cuda":
            torch.cuda.synchronize(self.processes.device)


class _InOnePass:
    """All of this process's rows at once, with their graph."""

    def __init__(self, step: LargeStep) -> None:
        self.step = step
        self.norms = NormStatistics(step.model)
        self.graph: Tensor | None = None

    def embed(self, pieces: Sequence[Piece]) -> Tensor | None:
        for piece in pieces:
            with self.norms.gathered() as chunk:
                self.graph = self.step.forward(piece)
                chunk.rows = len(self.graph)
        return self.graph

    def move_statistics(self) -> None:
        self.norms.update(self.step.processes.summed)

    def propagate(self, pieces: Sequence[Piece], gradient: Tensor) -> None:
        del pieces
        if self.graph is not None and self.graph.requires_grad:
            self.graph.backward(gradient.to(self.graph.dtype))


class _InTwoPasses:
    """Chunk by chunk, without a graph and with one."""

    def __init__(self, step: LargeStep) -> None:
        self.step = step
        self.cached = CachedGradients(
            step.model, forward=lambda model, piece: step.forward(piece), summed=step.processes.summed
        )

    def embed(self, pieces: Sequence[Piece]) -> Tensor:
        return self.cached.embed(pieces)

    def move_statistics(self) -> None:
        self.cached.move_statistics()

    def propagate(self, pieces: Sequence[Piece], gradient: Tensor) -> None:
        self.cached.propagate(pieces, gradient)


def _halved(pieces: Sequence[Piece]) -> list[Piece]:
    """Their halves, in the order of their numbers."""
    halves = [half for piece in pieces for half in piece.halves()]
    return sorted(halves, key=lambda half: half.number)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no more memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in _NO_MEMORY)


def _seed_of(*parts: int) -> int:
    """A seed that depends on every part and on their order."""
    return random.Random("/".join(map(str, parts))).getrandbits(63)


class _Kept:
    """What a step that came to nothing has changed: buffers, and where memories inside the loss stand.

    What a memory wrote need not be undone: it is written over from the same place.
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        self.buffers = KeptBuffers(model)
        self.states = [
            (module, module.get_extra_state())
            for module in loss.modules()
            if type(module).get_extra_state is not nn.Module.get_extra_state
        ]

    def restore(self) -> None:
        self.buffers.restore()
        for module, state in self.states:
            module.set_extra_state(state)
