"""Peak memory of one step beyond its inputs, what it learns, and the gradients of both.

On the CPU in a fresh process for every contestant and size: after a warm-up (libraries, threads) freed memory
is handed back, the resident set's high-water mark is reset, and read after the step. On a GPU in this
process, from the allocator.

``python -m bench.memory`` is that process: a JSON request on stdin, a JSON answer on stdout.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.contests import find_contestants
from bench.interleaved import status_of
from bench.peers import Contestant, Function
from bench.workload import PER_CLASS, Workload
from fastdml.resident_memory import can_measure, high_water, release_freed_memory, reset_high_water

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_SAMPLES = 8 * PER_CLASS
DESCRIPTION = (
    "CPU: high-water mark of the resident set during one step in a fresh process, less the set before "
    "it and less the gradients; memory_floor_mb is what the tiny warm-up step reads when repeated: the "
    "resolution. "
    "CUDA: max_memory_allocated less memory_allocated before it and less the gradients"
)


@dataclass(frozen=True)
class Peak:
    """Bytes beyond inputs and gradient, None where ``status`` tells why; and what the warm-up batch reads."""

    bytes: int | None
    floor: int = 0
    status: str = "ok"


def measure_peak(contestant: Contestant, contest: str, work: Workload, timeout: float = 300.0) -> Peak:
    """The peak of one step of a contestant of one of ``CONTESTS``."""
    if work.device == "cuda":
        return _cuda_peak(contestant, work)
    if not can_measure():
        return Peak(None, status="skipped: this system does not let a process reset its high-water mark")
    request = {"contest": contest, "provider": contestant.name, "work": work.to_dict()}
    environment = {name: value for name, value in os.environ.items() if name != "FASTDML_BACKEND"}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bench.memory"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Peak(None, status=f"skipped: took more than {timeout:.0f} s")
    if child.returncode == -signal.SIGKILL:
        return Peak(None, status="out of memory")
    try:
        return Peak(**json.loads(child.stdout.splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        last = (child.stderr.strip().splitlines() or ["no answer"])[-1]
        return Peak(None, status=f"error: {last}"[:160])


def free_memory() -> float:
    """Bytes that can be taken on this system without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float("inf")


def take_step(function: Function, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
    """One call, and its backward where it returns something to differentiate."""
    result = function(embeddings, labels)
    if isinstance(result, torch.Tensor) and result.requires_grad:
        result.backward()


def _cuda_peak(contestant: Contestant, work: Workload) -> Peak:
    try:
        function = contestant.make()
        embeddings, labels = work.make()
        take_step(function, embeddings, labels)  # compiles, and lets libraries take their workspaces
        embeddings.grad = None
        parameters = list(getattr(function, "parameters", list)())
        for parameter in parameters:
            parameter.grad = None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        take_step(function, embeddings, labels)
        torch.cuda.synchronize()
        gradient = work.gradient_bytes
        gradient += sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
        return Peak(max(0, torch.cuda.max_memory_allocated() - before - gradient))
    except torch.OutOfMemoryError as error:
        error.__traceback__ = None
        return Peak(None, status="out of memory")
    except Exception as error:
        return Peak(None, status=status_of(error))
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _answer(request: dict[str, Any]) -> Peak:
    """What this process finds."""
    work = Workload(**request["work"])
    contestant = next(c for c in find_contestants(request["contest"], "cpu") if c.name == request["provider"])
    function = contestant.make()
    tiny = Workload(min(work.samples, WARM_UP_SAMPLES), work.width, work.dtype)
    if contestant.compiles:  # anew for every shape, so it is warmed up at its own
        take_step(function, *work.make())
        return Peak(_peak_of_step(function, work))
    take_step(function, *tiny.make())
    floor = _peak_of_step(function, tiny)
    return Peak(_peak_of_step(function, work), floor)


def _peak_of_step(function: Function, work: Workload) -> int:
    embeddings, labels = work.make()
    parameters = list(getattr(function, "parameters", list)())
    for parameter in parameters:
        parameter.grad = None
    release_freed_memory()
    before = reset_high_water()
    take_step(function, embeddings, labels)
    gradient = 0 if embeddings.grad is None else work.gradient_bytes
    gradient += sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
    return max(0, high_water() - before - gradient)


if __name__ == "__main__":
    print(json.dumps(asdict(_answer(json.load(sys.stdin)))))
