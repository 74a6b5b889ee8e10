"""Proves on a device what the tests prove without one: ``python -m bench.gpu.prove --engines proxy``."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.accuracy import accuracy
from bench.gpu.behaviour import autocast, compiled, graph, repeat, stream, sync
from bench.gpu.centroid_accuracy import centroid_accuracy
from bench.gpu.centroid_overflow import centroid_overflow
from bench.gpu.overflow import overflow
from bench.gpu.proof import ENGINES, Check, Setting, list_cases, run_cases, save
from bench.gpu.proxy_accuracy import proxy_accuracy
from bench.gpu.proxy_overflow import proxy_overflow
from bench.interleaved import BROKEN_OFF

CHECKS: dict[str, Check] = {
    "repeat": repeat,
    "stream": stream,
    "graph": graph,
    "sync": sync,
    "compile": compiled,
    "autocast": autocast,
}
"""Of losses of every engine."""
OF_ENGINE: dict[str, dict[str, Check]] = {
    "pair": {"accuracy": accuracy, "overflow": overflow},
    "proxy": {"accuracy": proxy_accuracy, "overflow": proxy_overflow},
    "centroid": {"accuracy": centroid_accuracy, "overflow": centroid_overflow},
}
NAMES = (*CHECKS, "accuracy", "overflow")


def find_checks(names: Sequence[str], engine: str) -> dict[str, Check]:
    """The checks of these names, as far as they are about one engine."""
    known = {**CHECKS, **OF_ENGINE[engine]}
    return {name: known[name] for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks; 0 where none failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.prove", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--backends", default="", help="such as triton,cuda; default: all of the device")
    parser.add_argument("--checks", default=",".join(NAMES), help=f"default: {','.join(NAMES)}")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"default: {','.join(ENGINES)}")
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes, to see that the checks themselves run"
    )
    parser.add_argument("--jobs", type=int, default=0, help="processes that share the cases; 0: this one")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no case after so long")
    parser.add_argument("--out", type=Path, help="write the proof here, as JSON")
    options = parser.parse_args(arguments)
    names = options.checks.split(",")
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"--checks must be among {', '.join(NAMES)}, got {', '.join(unknown)}")
    engines = options.engines.split(",")
    unknown = sorted(set(engines) - set(ENGINES))
    if unknown:
        parser.error(f"--engines must be among {', '.join(ENGINES)}, got {', '.join(unknown)}")
    backends = options.backends or ("triton,cuda" if options.device == "cuda" else "cpu")
    deadline = time.monotonic() + options.seconds
    cases = [
        case
        for engine in engines
        for case in list_cases(
            find_checks(names, engine), Setting(options.device, engine, options.tiny), backends.split(",")
        )
    ]
    verdicts = run_cases(cases, options.jobs, deadline)
    counted = Counter(verdict.status for verdict in verdicts)
    print(", ".join(f"{count} {status}" for status, count in sorted(counted.items())))
    if options.out is not None:
        save(verdicts, options.device, options.out)
    # A backend that cannot run at all proves nothing.
    if counted["FAILED"] or counted["absent"]:
        return 1
    return BROKEN_OFF if counted["not run"] else 0


if __name__ == "__main__":
    sys.exit(main())
