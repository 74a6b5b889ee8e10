"""Runs compute-sanitizer over every kernel and tells errors in our kernels from errors in others'.

``python -m bench.gpu.sanitizer --engines proxy --tools memcheck --backends triton --log log.txt``
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.gpu.kernels import own_kernels
from bench.gpu.proof import ENGINES, Verdict, save
from bench.machine import ROOT

TOOLS = ("memcheck", "racecheck", "initcheck")
SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")


@dataclass(frozen=True)
class Found:
    """What one log says: errors in all (None: it breaks off before its summary), and our kernels it names."""

    errors: int | None
    ours: tuple[str, ...]

    @property
    def status(self) -> str:
        """ "passed" where nothing was found, or only in kernels of others."""
        if self.errors is None or self.ours:
            return "FAILED"
        return "passed"

    @property
    def detail(self) -> str:
        """In words."""
        if self.errors is None:
            return "not run, or the log breaks off before its summary"
        if self.ours:
            return f"{self.errors} errors, in {', '.join(self.ours)}"
        return "clean" if self.errors == 0 else f"{self.errors} errors, none of them in our kernels"


def read_log(text: str, kernels: set[str]) -> Found:
    """What compute-sanitizer found."""
    totals = [int(first or second) for first, second in SUMMARY.findall(text)]
    # Host backtraces name the launchers, not where the error is.
    lines = [line for line in text.splitlines() if line.startswith("=========") and "Host Frame" not in line]
    named = {name for name in kernels for line in lines if re.search(rf"\b{name}\b|\d{name}", line)}
    return Found(max(totals) if totals else None, tuple(sorted(named)))


class Watch(NamedTuple):
    """One tool over one backend's kernels of an engine."""

    engine: str
    backend: str
    tool: str

    def run(self, dtypes: str, deadline: float) -> tuple[Found, str]:
        """What it found, and its log; what is not through by the deadline is stopped."""
        command = ["compute-sanitizer", "--tool", self.tool, "--error-exitcode", "9", sys.executable]
        command += ["-m", "bench.gpu.kernels", "--backend", self.backend, "--engine", self.engine]
        # With torch's cache of memory one allocation borders on the next, and no access is out of bounds.
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
        seconds = int(deadline - time.monotonic())
        if shutil.which(command[0]) is None or seconds < 1:
            return Found(None, ()), f"{command[0]} is not installed, or no time was left\n"
        done = subprocess.run(
            # which ends the watched program too
            ["timeout", "-k", "5", str(seconds), *command, "--dtypes", dtypes],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        log = done.stdout + (f"\nstopped after {seconds} s" if done.returncode in (124, 137) else "")
        log = f"$ {' '.join(command[:5])} {self.backend} {self.engine}\n{log}\n"
        return read_log(log, own_kernels(self.backend)), log


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all, several at a time; 0 where our kernels are clean."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.sanitizer", description=__doc__)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--backends", default="triton,cuda")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--seconds", type=float, default=600, help="for all of them")
    parser.add_argument("--log", type=Path, help="write the logs here")
    parser.add_argument("--out", type=Path, help="write the verdicts here, as JSON")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.seconds
    tools, backends, engines = (
        text.split(",") for text in (options.tools, options.backends, options.engines)
    )
    # tools first, so that what a cut-off run has seen is all kernels with the first of them
    watches = [Watch(engine, backend, tool) for tool in tools for backend in backends for engine in engines]
    verdicts, logs = [], []
    with ThreadPoolExecutor(options.jobs) as pool:
        for watch, (found, log) in zip(
            watches, pool.map(lambda one: one.run(options.dtypes, deadline), watches), strict=True
        ):
            verdict = Verdict(
                watch.engine, "sanitizer", watch.backend, watch.tool, found.status, found.detail, 0.0
            )
            verdicts.append(verdict)
            print(
                f"{verdict.status:<8} {watch.engine:<8} {watch.tool:<9} {watch.backend:<7} {verdict.detail}",
                flush=True,
            )
            logs.append(log)
            if options.log is not None:
                options.log.write_text("\n".join(logs))
            if options.out is not None:
                save(verdicts, "cuda", options.out)
    return 1 if any(verdict.status != "passed" for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
