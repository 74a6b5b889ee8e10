"""Peak memory of one loss step, measured in a process of its own.

Run as ``python -m fastdml.training.fusion_memory``: reads a JSON request on stdin, writes one JSON line
``[size, bytes]`` a size on stdout. The high-water mark of the resident set is reset before each step and read
after it (:mod:`fastdml.resident_memory`); the gradient is counted too.

By itself the GNU C library takes ever larger blocks from its heap once some were freed, and holes in the heap
stay resident: a second step would seem to need twice what it does. Large blocks are therefore always mapped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import fastdml
from fastdml.resident_memory import high_water, release_freed_memory, reset_high_water
from fastdml.training.loss_work import LossWork

_MAPPED_FROM = str(1 << 17)  # bytes


def peak_memory(work: LossWork, backend: str, sizes: Sequence[int], timeout: float) -> dict[int, int]:
    """Bytes by which one forward and backward raises the resident set, for each batch size in turn.

    Measured in a fresh process on the CPU. Sizes that the ``timeout`` (seconds, for all of them) cut off, or
    that could not be measured, are absent.
    """
    request = {"work": asdict(work), "backend": backend, "sizes": list(sizes)}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("FASTDML_BACKEND", None)
    environment["MALLOC_MMAP_THRESHOLD_"] = _MAPPED_FROM
    child = subprocess.Popen(
        [sys.executable, "-m", "fastdml.training.fusion_memory"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the run, which then ends in order
    )
    try:
        output, _ = child.communicate(json.dumps(request), timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
    return _parse(output)


def _parse(output: str) -> dict[int, int]:
    found = {}
    for line in output.splitlines():
        try:
            size, value = json.loads(line)
        except ValueError:  # the last line of a process that was cut off
            continue
        found[int(size)] = int(value)
    return found


def _measure(request: dict[str, Any]) -> None:
    work = LossWork(**request["work"])
    loss = work.make()

    def step(size: int) -> None:
        embeddings, labels = work.batch(size)
        loss.zero_grad(set_to_none=True)
        release_freed_memory()
        before = reset_high_water()
        with fastdml.use_backend(request["backend"]):
            loss(embeddings, labels).backward()
        peaks[size] = max(high_water() - before, 0)

    peaks: dict[int, int] = {}
    step(8 * work.samples_per_class)  # loads libraries and starts threads; not reported
    for size in request["sizes"]:
        step(size)
        print(json.dumps([size, peaks[size]]), flush=True)


if __name__ == "__main__":
    _measure(json.load(sys.stdin))
