"""Runs tasks in processes of their own, so that what takes the time, compiling kernels, has every core.

On a lent device minutes count, and a proof compiles a thousand kernels. All processes share Triton's and
torch's caches on disk: what one has compiled no other compiles again. A task that takes its process along, or
that leaves the device unusable to it, costs no other task anything: the next one gets a fresh process.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

CONTEXT = multiprocessing.get_context("spawn")


class Task(NamedTuple):
    """A function that a fresh process can import, and its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Done(NamedTuple):
    """What became of the task of that number: what it returned, or why it did not."""

    number: int
    result: Any
    error: Exception | None = None


def side_by_side(tasks: Sequence[Task], jobs: int, deadline: float = float("inf")) -> Iterator[Done]:
    """The outcomes of the tasks as they end; a task that was not begun by the deadline has none.

    Args:
        tasks: begun in their order.
        jobs: processes; with one, the tasks run in this process.
        deadline: by ``time.monotonic()``. A task that is running then is waited for.
    """
    if jobs <= 1:
        for number, task in enumerate(tasks):
            if time.monotonic() < deadline:
                yield Done(number, *_outcome(task))
        return
    waiting = list(enumerate(tasks))[::-1]
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, int]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs and time.monotonic() < deadline:
                number, task = waiting.pop()
                worker = idle.pop() if idle else _Worker()
                worker.connection.send(task)
                busy[worker.connection] = worker, number
            if not busy:
                return
            wait(list(busy))
            for connection in [one for one in busy if one.poll()]:
                worker, number = busy.pop(connection)
                result, error, usable = worker.receive()
                if usable:
                    idle.append(worker)
                else:
                    worker.process.terminate()
                yield Done(number, result, error)
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.process.terminate()


class _Worker:
    """A process that runs one task after another."""

    def __init__(self) -> None:
        self.connection, other = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_work, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def receive(self) -> tuple[Any, Exception | None, bool]:
        """Result or error of its task, and whether it can be given another."""
        try:
            found: tuple[Any, Exception | None, bool] = self.connection.recv()
        except EOFError:
            self.process.join()
            return None, ChildProcessError(f"its process ended with {self.process.exitcode}"), False
        return found


def _work(connection: Connection) -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch.set_num_threads(1)  # the others have the other cores
    while True:
        result, error = _outcome(connection.recv())
        connection.send((result, error, _device_is_usable()))


def _outcome(task: Task) -> tuple[Any, Exception | None]:
    try:
        return task.function(*task.arguments), None
    except Exception as error:
        error.__traceback__ = None  # its frames hold tensors
        return None, error


def _device_is_usable() -> bool:
    """Whether this process can go on: after an illegal access every call of the device fails."""
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
