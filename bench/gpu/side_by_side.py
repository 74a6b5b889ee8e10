"""Runs tasks in processes of their own, so that what takes the time, compiling kernels, has every core.

On a lent device minutes count, and a proof compiles a thousand kernels. All processes share Triton's and
torch's caches on disk: what one has compiled no other compiles again. A task that takes its process along, or
that leaves the device unusable to it, costs no other task anything: the next one gets a fresh process.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

from bench.interleaved import status_of

CONTEXT = multiprocessing.get_context("spawn")
GRACE = 10.0
"""Seconds."""


class Task(NamedTuple):
    """A function that a fresh process can import, and its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Done(NamedTuple):
    """What became of the task of that number: what it returned, or why it did not."""

    number: int
    result: Any
    error: str = ""


def side_by_side(tasks: Sequence[Task], jobs: int, deadline: float = math.inf) -> Iterator[Done]:
    """The outcomes of the tasks as they end; a task that was not begun by the deadline has none.

    Args:
        tasks: begun in their order.
        jobs: processes; 0: the tasks run in this one.
        deadline: by ``time.monotonic()``. A task that is running then has ``GRACE`` seconds more, and failed
            after them; in this process it has as long as it takes.
    """
    if jobs < 1:
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
                worker.begin(task)
                busy[worker.connection] = worker, number
            if not busy:
                return
            if not wait(list(busy), None if deadline == math.inf else deadline + GRACE - time.monotonic()):
                yield from (Done(number, None, "did not end in time") for _, number in busy.values())
                return
            for connection in [one for one in busy if one.poll()]:
                worker, number = busy.pop(connection)
                result, error, usable = worker.receive()
                if usable:
                    idle.append(worker)
                else:
                    worker.process.terminate()
                yield Done(number, result, error)
    finally:
        workers = [*idle, *(worker for worker, _ in busy.values())]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(GRACE)  # whose memory of the device is then free


class _Worker:
    """A process that runs one task after another."""

    def __init__(self) -> None:
        self.connection, other = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_work, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def begin(self, task: Task) -> None:
        """Gives it a task; that it has ended is found by ``receive``."""
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def receive(self) -> tuple[Any, str, bool]:
        """Result or error of its task, and whether it can be given another."""
        try:
            found: tuple[Any, str, bool] = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None, f"its process ended with {self.process.exitcode}", False
        return found


def _work(connection: Connection) -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch.set_num_threads(1)  # the others have the other cores
    while True:
        result, error = _outcome(connection.recv())
        connection.send((result, error, _device_is_usable()))


def _outcome(task: Task) -> tuple[Any, str]:
    """What it returns, or what it raises, in words: not every exception can be sent."""
    try:
        return task.function(*task.arguments), ""
    except Exception as error:
        return None, status_of(error)


def _device_is_usable() -> bool:
    """Hands unused memory back; False where every call of the device fails, as after an illegal access."""
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
