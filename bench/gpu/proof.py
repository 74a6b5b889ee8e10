"""A check passes, is skipped for a reason, or fails; a proof is the list of what they said."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import machine
from bench.gpu.side_by_side import Task, side_by_side
from bench.interleaved import status_of
from bench.results import write_whole
from fastdml.backends import registry

ENGINES = ("pair", "proxy", "centroid")
ALONE = ("overflow",)
"""Checks whose cases take tens of gigabytes."""


@dataclass(frozen=True)
class Setting:
    """Where checks run, and of which engine.

    ``tiny`` shrinks every size: a CPU, or an interpreter, is then through soon.
    """

    device: str
    engine: str
    tiny: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What the fused backends take on this device."""
        return ("float32", "bfloat16", "float16") if self.on_gpu else ("float32", "bfloat16")


class SkippedError(Exception):
    """Raised by a check that cannot run in this setting."""


Check = Callable[[Setting, str], Iterator[tuple[str, Callable[[], str]]]]
"""Yields, for a setting and a backend, cases: a name, and a function that returns a detail or raises."""


@dataclass(frozen=True)
class Verdict:
    """What became of one case."""

    engine: str
    check: str
    backend: str
    case: str
    status: str
    detail: str
    seconds: float


class Case(NamedTuple):
    """One case of a check, such that another process can run it."""

    check: str
    backend: str
    name: str
    function: Check
    setting: Setting

    def verdict(self, status: str, detail: str, seconds: float = 0.0) -> Verdict:
        """What became of it."""
        return Verdict(
            self.setting.engine, self.check, self.backend, self.name, status, detail, round(seconds, 3)
        )


def list_cases(checks: Mapping[str, Check], setting: Setting, backends: Sequence[str]) -> list[Case]:
    """Every case of every check on every backend; one without a name where a backend cannot run at all."""
    found = []
    for backend, (name, check) in itertools.product(backends, checks.items()):
        absent = registry.reason_against(backend) is not None
        names = [""] if absent else [case for case, _ in check(setting, backend)]
        found += [Case(name, backend, case, check, setting) for case in names]
    return found


def run_checks(checks: Mapping[str, Check], setting: Setting, backends: Sequence[str]) -> list[Verdict]:
    """Runs every case in this process; a failure stops nothing, and is printed."""
    return run_cases(list_cases(checks, setting, backends))


def run_cases(cases: Sequence[Case], jobs: int = 0, deadline: float = math.inf) -> list[Verdict]:
    """Runs the cases; a failure stops nothing, and is printed.

    Args:
        cases: those of the checks in ``ALONE`` are run last, with the device to themselves.
        jobs: processes that share the others; 0: all is run in this one.
        deadline: by ``time.monotonic()``; a case that was not begun by then is "not run".

    Returns:
        Verdicts in the order in which the cases were begun.
    """
    shared = [case for case in cases if case.check not in ALONE]
    alone = [case for case in cases if case.check in ALONE]
    return [*_run(shared, jobs, deadline), *_run(alone, min(jobs, 1), deadline)]


def _run(cases: Sequence[Case], jobs: int, deadline: float) -> list[Verdict]:
    found = {}
    for number, verdict, error in side_by_side([Task(run_case, (case,)) for case in cases], jobs, deadline):
        if error:  # of the process, not of the case
            verdict = cases[number].verdict("FAILED", error)
        found[number] = _say(verdict)
    return [found.get(at) or case.verdict("not run", "no time left") for at, case in enumerate(cases)]


def run_case(case: Case) -> Verdict:
    """Runs it; a failure is a verdict."""
    why = registry.reason_against(case.backend)
    if why is not None:
        return case.verdict("absent", why)
    action = dict(case.function(case.setting, case.backend))[case.name]
    begun = time.perf_counter()
    try:
        status, detail = "passed", action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except SkippedError as reason:
        status, detail = "skipped", str(reason)
    except AssertionError as error:
        status, detail = "FAILED", str(error)
    except Exception as error:
        status, detail = "FAILED", status_of(error)
    return case.verdict(status, detail, time.perf_counter() - begun)


def _say(verdict: Verdict) -> Verdict:
    print(
        f"{verdict.status:<8} {verdict.engine:<8} {verdict.check:<9} {verdict.backend:<7} {verdict.case}  "
        f"{verdict.detail}",
        flush=True,
    )
    return verdict


def save(verdicts: Sequence[Verdict], device: str, path: Path) -> None:
    """Writes the proof as JSON, with commit, versions and device in every row."""
    header = machine.describe(device)
    where = {key: header[key] for key in ("device", "commit", "dirty", "date", "fastdml", "torch", "triton")}
    rows = ",\n".join(f"  {json.dumps({**asdict(verdict), **where})}" for verdict in verdicts)
    head = json.dumps({"schema": 1, "contest": "gpu_proof", "header": header}, indent=1)
    write_whole(path, f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """``|found - truth| / |truth|``, in float64; NaN passes no comparison."""
    found, truth = found.double(), truth.double()
    scale = float(truth.norm())
    return float((found - truth).norm()) / scale if scale else float(found.norm())


def require_as_accurate(
    found: Mapping[str, torch.Tensor],
    plain: Mapping[str, torch.Tensor],
    truth: Mapping[str, torch.Tensor],
    slack: Mapping[str, float] | None = None,
) -> str:
    """Fails where something is off by more than twice what plain PyTorch in the same dtype is.

    1e-6 of the scale is allowed on top, for where PyTorch happens to be exact, and 1e-14.

    Args:
        found: what is judged, by name.
        plain: what plain PyTorch makes of it.
        truth: the same in float64; where it is infinite, the others must be so too.
        slack: of some names, what is allowed beyond that, as a share of the scale.

    Returns:
        How near it came to failing.
    """
    worst = 0.0
    for name, value in found.items():
        finite = truth[name].isfinite()
        infinite = torch.equal(value[~finite].double(), truth[name][~finite].double())
        require(infinite, f"{name} is not infinite where it should be")
        exact = truth[name][finite].double()
        if not exact.numel():
            continue
        error, of_plain = (float((one[finite].double() - exact).abs().max()) for one in (value, plain[name]))
        share = 1e-6 + (slack or {}).get(name, 0.0)
        allowed = 2 * of_plain + share * float(exact.abs().max()) + 1e-14
        require(error <= allowed, f"{name} off by {error:.2e}, allowed {allowed:.2e}")
        worst = max(worst, error / allowed)
    return f"error at {worst:.0%} of what is allowed"


def require(condition: Any, message: str) -> None:
    """A named failure."""
    if not condition:
        raise AssertionError(message)
