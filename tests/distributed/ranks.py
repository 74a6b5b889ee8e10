"""Processes that are the ranks of a process group, started once and asked again and again."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = 30
"""Seconds that a collective waits for other ranks."""


class Ranks:
    """Rank ``r`` calls ``function(group, *arguments)``; a group holds the first ranks, of any number.

    Functions are found by name, so they must stand in a module. What they return comes as a list by rank;
    exceptions of any are raised here as one.
    """

    def __init__(self, ranks: int, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "fastdml.losses", "fastdml.distributed"])
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(ranks):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(there, rank, ranks, str(folder / "rendezvous")), daemon=True
            )
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def __call__(self, ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        pipes = self.pipes[:ranks]
        for pipe in pipes:
            pipe.send((ranks, function, arguments))
        answers = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(2 * PATIENCE):
                raise TimeoutError(f"rank {rank} did not answer")
            answers.append(pipe.recv())
        failures = [f"rank {rank}:\n{failure}" for rank, (_, failure) in enumerate(answers) if failure]
        if failures:
            raise AssertionError("\n".join(failures))
        return [result for result, _ in answers]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)
            process.kill()


def _serve(pipe: Connection, rank: int, ranks: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=PATIENCE),
    )
    groups = {size: dist.new_group(list(range(size))) for size in range(1, ranks)}
    groups[ranks] = None
    while (asked := pipe.recv()) is not None:
        size, function, arguments = asked
        try:
            pipe.send((function(groups[size], *arguments), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))
    dist.destroy_process_group()
