"""Images of one chunk of a batch after another, read ahead by worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastdml.data.split import ImageStore, Split
from fastdml.errors import InputError

_AHEAD = 2  # chunks a worker that wait or are being read
_POLL = 2.0  # seconds between looks at whether a process is alive
_FOR_PARENT = {signal.SIGINT, signal.SIGTERM}
_MEND = "use fewer workers or a smaller chunk, or give the machine or container more (docker: --shm-size)"


class WorkerError(RuntimeError):
    """A worker process came to an end, or had no memory; the message says what to change."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What was read of one chunk.

    Attributes:
        rows: int64 [n], the rows of the split that could be read, in the order asked for.
        images: uint8 [n, C, H, W], or features float32 [n, F]; on the CPU.
    """

    rows: Tensor
    images: Tensor


class LoadedChunks(Iterator[Loaded]):
    """What `load_chunks` gives; its worker processes end when it is used up, closed or left with ``with``."""

    def __init__(self, chunks: Generator[Loaded, None, None]) -> None:
        self._chunks = chunks

    def __next__(self) -> Loaded:
        return next(self._chunks)

    def close(self) -> None:
        """End the worker processes; what they have read ahead is dropped."""
        self._chunks.close()

    def __enter__(self) -> LoadedChunks:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def load_chunks(
    split: Split,
    chunks: Iterable[Tensor],
    workers: int = 0,
    pin: bool = False,
    on_skip: Callable[[Path], None] | None = None,
) -> LoadedChunks:
    """The images of each of `chunks`, in order, whatever `workers` is.

    A chunk is read whole by one worker, so `workers` chunks are decoded side by side. Workers start with the
    first chunk asked for; they are forked, or come from a fork server once CUDA is in use.

    Args:
        split: where the images are. One that holds a tensor needs no workers and starts none.
        chunks: int64 [n] tensors of rows of `split`, as many as there are, or without end. At most
            2 x `workers` of them are taken ahead of what was handed out.
        workers: processes that read; 0 reads here, when a chunk is asked for.
        pin: hand out images in page-locked memory, for copies to a GPU that run on their own; without a GPU
            it changes nothing.
        on_skip: told the path of every image that could not be read and is left out, once each; None: warn.

    Raises:
        InputError: `workers` is negative; from the iterator, a chunk does not hold rows of `split`.
        UnreadableImageError: from the iterator, where the image files have ``on_error="stop"``.
        WorkerError: from the iterator, where a worker was killed or `/dev/shm` is full.
    """
    if workers < 0:
        raise InputError(f"workers must be at least 0, got {workers}")
    pin = pin and torch.cuda.is_available()
    return LoadedChunks(_load(split.images, chunks, workers, pin, on_skip or _warn))


@runtime_checkable
class _Files(Protocol):
    """Images that are read one by one from `paths`: `fastdml.data.images.ImageFiles`."""

    paths: Sequence[str]

    def read(self, i: int) -> Tensor | None: ...


@dataclass(frozen=True, eq=False)
class _Chunk:
    """What a worker hands back. Plain numbers, because every tensor costs a file of shared memory."""

    rows: list[int]
    images: Tensor
    skipped: list[int]

    def pin_memory(self) -> _Chunk:
        return replace(self, images=self.images.pin_memory())


def _load(
    store: Tensor | ImageStore,
    chunks: Iterable[Tensor],
    workers: int,
    pin: bool,
    on_skip: Callable[[Path], None],
) -> Generator[Loaded, None, None]:
    told: set[int] = set()
    asked = (_rows_of(chunk, len(store)) for chunk in chunks)
    here = workers == 0 or isinstance(store, Tensor)
    with closing(_read_here(store, asked, pin) if here else _read_apart(store, asked, workers, pin)) as read:
        for chunk in read:
            for row in chunk.skipped:
                if row not in told and isinstance(store, _Files):
                    told.add(row)
                    on_skip(Path(store.paths[row]))
            yield Loaded(torch.tensor(chunk.rows, dtype=torch.int64), chunk.images)


def _read_here(
    store: Tensor | ImageStore, asked: Iterable[list[int]], pin: bool
) -> Generator[_Chunk, None, None]:
    for rows in asked:
        chunk = _read(store, rows)
        yield chunk.pin_memory() if pin else chunk


def _read_apart(
    store: Tensor | ImageStore, asked: Iterable[list[int]], workers: int, pin: bool
) -> Generator[_Chunk, None, None]:
    loader = DataLoader(
        _Reader(store),
        batch_size=None,
        sampler=asked,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        multiprocessing_context=_start_method(store),
        generator=torch.Generator(),  # or it would draw from the global one, and dropout after it
    )
    processes = _started(loader)
    try:
        while True:
            try:
                chunk = next(processes)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # A broken connection may be noticed before the end of the process that broke it.
                ended = connection.wait([process.sentinel for process in processes._workers], _POLL)
                dead = [process for process in processes._workers if process.sentinel in ended]
                if not dead:
                    raise
                dead[0].join()
                raise WorkerError(_why_ended(dead[0].exitcode, workers)) from error
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
    finally:
        # Freeing the iterator ends the workers too, but a traceback may hold it for long.
        processes._shutdown_workers()


class _Reader(Dataset[Any]):
    """Reads a chunk in a worker; errors that a person can mend come back as they are, not as a traceback."""

    def __init__(self, store: Tensor | ImageStore) -> None:
        self._store = store

    def __getitem__(self, rows: list[int]) -> _Chunk | Exception:
        try:
            chunk = _read(self._store, rows)
        except InputError as error:
            return error
        try:
            # Here, where it can fail; left to the queue's thread, a full /dev/shm would hang the run.
            chunk.images.share_memory_()
        except RuntimeError as error:
            size = chunk.images.numel() * chunk.images.element_size() / 2**20
            return WorkerError(f"a chunk of {size:.1f} MiB found no room in /dev/shm ({error}); {_MEND}")
        return chunk


def _read(store: Tensor | ImageStore, rows: list[int]) -> _Chunk:
    if not isinstance(store, _Files):
        return _Chunk(rows, store[torch.tensor(rows, dtype=torch.int64)], [])
    kept: list[int] = []
    images: list[Tensor] = []
    for row in rows:
        image = store.read(row)
        if image is not None:
            kept.append(row)
            images.append(image)
    stacked = torch.stack(images) if images else store[torch.empty(0, dtype=torch.int64)]
    read = set(kept)
    return _Chunk(kept, stacked, [row for row in rows if row not in read])


def _rows_of(chunk: Tensor, size: int) -> list[int]:
    if chunk.dtype != torch.int64 or chunk.dim() != 1:
        raise InputError(f"chunks must be int64 tensors [n], got {chunk.dtype} {list(chunk.shape)}")
    if len(chunk) and (int(chunk.min()) < 0 or int(chunk.max()) >= size):
        held = f"[{int(chunk.min())}, {int(chunk.max())}]"
        raise InputError(f"chunks must hold rows in [0, {size - 1}], the images of the split, got {held}")
    return chunk.tolist()


def _start_method(store: Tensor | ImageStore) -> str:
    """Forking is fastest, but unsafe once CUDA and NCCL have threads: the fork server has none of them."""
    if not torch.cuda.is_initialized():
        return "fork"
    # Imported once, in the server, in place of once in every worker.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["__main__", __name__, type(store).__module__]
    )
    return "forkserver"


def _started(loader: DataLoader[Any]) -> Any:
    """The loader's iterator, its processes running."""
    before = signal.getsignal(signal.SIGCHLD)
    # Blocked from the start, because torch gives workers threads of which each could take a signal. Starting
    # the tracker ends with them unblocked, so it comes first.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_PARENT)
    try:
        processes = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if threading.current_thread() is threading.main_thread():
        # torch's handler raises for a dead worker wherever the main thread is, halfway through a step too.
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return processes


def _start_worker(number: int) -> None:
    """Leave it to the parent when this worker ends: signals to all processes of a run pass it by."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_PARENT)  # a fork server may have been started by others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, _POLL)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(0)


def _why_ended(code: int, workers: int) -> str:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return (
        f"a worker process was ended {how} while it read images, most often because memory ran out: "
        f"{workers} workers hold up to {_AHEAD} chunks each, and hand them over in /dev/shm; {_MEND}"
    )


def _warn(path: Path) -> None:
    warnings.warn(f"{path} cannot be read as an image and is left out", stacklevel=2)
