"""Runs a plan: with ninja where it is found, with plain parallel processes otherwise."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .plan import MANIFEST, Plan, Step
from .toolchain import BuildError

LOG_LINES = 12


def build(plan: Plan, work: Path, destination: Path) -> None:
    """Runs `plan` in the folder `work` and leaves its products and its record in `destination`.

    Objects that ninja finds up to date in `work` are not compiled again. On failure BuildError names the log.
    """
    work.mkdir(parents=True, exist_ok=True)
    for name, text in plan.generated:
        path = work / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
    start = time.monotonic()
    compile_objects(plan.steps, work)
    seconds = round(time.monotonic() - start, 1)
    destination.mkdir(parents=True, exist_ok=True)
    for name in plan.products:
        # A new file takes the place of the old one: a process that has it loaded keeps its own.
        fresh = destination / f".{name}.{os.getpid()}"
        shutil.copy2(work / name, fresh)
        os.replace(fresh, destination / name)
    record = {**plan.manifest, "products": list(plan.products), "seconds": seconds}
    (destination / MANIFEST[plan.part]).write_text(json.dumps(record, indent=1) + "\n")


def compile_objects(steps: Iterable[Step], work: Path) -> None:
    """Runs the steps in `work`; output goes to build.log there, and BuildError quotes its last lines."""
    steps = list(steps)
    log = work / "build.log"
    ninja = _find_ninja()
    if ninja:
        (work / "build.ninja").write_text(_ninja_file(steps))
        command = [ninja, "-C", str(work), "-j", str(_jobs())]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        log.write_bytes(done.stdout)
        failed = done.returncode != 0
    else:
        failed = _run_plainly(steps, work, log)
    if failed:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise BuildError(f"compiling failed, see {log}; its last lines:\n{last}")


def _jobs() -> int:
    asked = os.environ.get("MAX_JOBS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _find_ninja() -> str | None:
    found = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if found is None:
        return None
    try:  # a stale wrapper script of another environment is no ninja
        subprocess.run([found, "--version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return found


def _ninja_file(steps: list[Step]) -> str:
    lines = ["rule run", "  command = $cmd", "  depfile = $dep", "  deps = gcc"]
    lines += ["rule link", "  command = $cmd"]
    for step in steps:
        inputs = " ".join(_ninja_path(path) for path in step.inputs)
        lines.append(f"build {_ninja_path(step.output)}: {'run' if step.depfile else 'link'} {inputs}")
        lines.append(f"  cmd = {shlex.join(step.command).replace('$', '$$')}")
        if step.depfile:
            lines.append(f"  dep = {step.depfile}")
    return "\n".join(lines) + "\n"


def _ninja_path(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _run_plainly(steps: list[Step], work: Path, log: Path) -> bool:
    """Compiles in parallel, then links; True where a command failed."""
    waves = ([step for step in steps if step.depfile], [step for step in steps if not step.depfile])
    with log.open("wb") as out, ThreadPoolExecutor(_jobs()) as pool:
        for wave in waves:
            results = list(pool.map(lambda step: _run_one(step, work), wave))
            for _, output in results:
                out.write(output)
            if any(code for code, _ in results):
                return True
    return False


def _run_one(step: Step, work: Path) -> tuple[int, bytes]:
    try:
        done = subprocess.run(step.command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        return 1, f"{step.command[0]}: {error}\n".encode()
    text = b"" if done.returncode == 0 else f"FAILED: {shlex.join(step.command)}\n".encode()
    return done.returncode, text + done.stdout
