"""Runs compute-sanitizer over every kernel and tells errors in our kernels from errors in others'.

``python -m bench.gpu.sanitizer --engine proxy --tools memcheck --backends triton --log log.txt``
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
            return "the log breaks off before its summary"
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


def watch(tool: str, backend: str, engine: str, dtypes: str, timeout: float) -> tuple[Found, str]:
    """Runs one tool over one backend's kernels of an engine, and returns what it found and its log."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
    command += ["-m", "bench.gpu.kernels", "--backend", backend, "--engine", engine, "--dtypes", dtypes]
    # With torch's cache of memory one allocation borders on the next, and no access is out of bounds.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        log = done.stdout
    except FileNotFoundError:
        log = "compute-sanitizer is not installed"
    except subprocess.TimeoutExpired as error:
        log = f"{(error.stdout or b'').decode(errors='replace')}\nstopped after {timeout:.0f} s"
    return read_log(log, own_kernels(backend)), f"$ {' '.join(command[:5])} {backend} {engine}\n{log}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all; 0 where our kernels are clean."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.sanitizer", description=__doc__)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--backends", default="triton,cuda")
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for each")
    parser.add_argument("--log", type=Path, help="write the logs here")
    parser.add_argument("--out", type=Path, help="write the verdicts here, as JSON")
    options = parser.parse_args(arguments)
    verdicts, logs = [], []
    for backend, tool in itertools.product(options.backends.split(","), options.tools.split(",")):
        found, log = watch(tool, backend, options.engine, options.dtypes, options.timeout)
        verdicts.append(Verdict("sanitizer", backend, tool, found.status, found.detail, 0.0))
        print(f"{found.status:<8} {tool:<10} {backend:<9} {found.detail}", flush=True)
        logs.append(log)
        if options.log is not None:
            options.log.write_text("\n".join(logs))
        if options.out is not None:
            save(verdicts, "cuda", options.out)
    return 1 if any(verdict.status != "passed" for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
