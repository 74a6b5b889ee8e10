"""What the commands share: run, say what came out or went wrong, open the report, choose the exit code."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from fastdml.data.loading import WorkerError
from fastdml.errors import BackendError, InputError
from fastdml.retrieval import MissingPackageError
from fastdml.training.config import TrainConfig
from fastdml.training.experiment import run_experiment
from fastdml.training.large_step import ChunkMemoryError
from fastdml.training.processes import leave_processes
from fastdml.training.progress import make_display
from fastdml.training.records import NonFiniteLossError
from fastdml.training.run_result import RunResult

_TOLD = (BackendError, ChunkMemoryError, MissingPackageError, NonFiniteLossError, WorkerError, OSError)


@contextmanager
def errors_told() -> Iterator[None]:
    """Turns errors that say what is wrong into one line and an exit code: 2 for an argument, 1 for others."""
    try:
        yield
    except InputError as error:
        raise _failed(error, 2) from error
    except _TOLD as error:
        raise _failed(error, 1) from error


def run_and_show(
    config: TrainConfig,
    out: Path,
    overwrite: bool,
    panel_seconds: float,
    open_report: bool,
    resume: bool = False,
) -> None:
    """Train, print the result and where its report is, and exit with the code of a signal that ended it."""
    console = Console()
    result = run_experiment(
        config, out, make_display(console), overwrite=overwrite, resume=resume, panel_seconds=panel_seconds
    )
    leave_processes()
    if result is None:
        return  # another process has it
    report = (out / "report.html").resolve()
    _print_result(result, report, console)
    if open_report and desktop_is_there():
        webbrowser.open(report.as_uri())
    code = _exit_code(result)
    if code:
        raise typer.Exit(code)


def desktop_is_there(environment: Mapping[str, str] | None = None, platform: str = sys.platform) -> bool:
    """Whether a browser window could be opened for somebody: a display, no CI, no remote shell."""
    environment = os.environ if environment is None else environment
    if environment.get("CI") or environment.get("SSH_CONNECTION"):
        return False
    if platform in ("darwin", "win32"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def _failed(error: Exception, code: int) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(code)


def _print_result(result: RunResult, report: Path, console: Console) -> None:
    ks = list(result.rows["trained"])
    if console.is_terminal:
        table = Table(title=f"Retrieval among {result.dataset.test_classes}", title_justify="left")
        table.add_column("")
        for k in ks:
            table.add_column(f"Recall@{k}", justify="right")
        for name, recall in result.rows.items():
            style = "bold green" if name == "trained" else None
            table.add_row(name, *(f"{100 * recall[k]:.1f} %" for k in ks), style=style)
        console.print(table)
    else:
        for name, recall in result.rows.items():
            print(f"{name:<12}" + "".join(f"  R@{k} {100 * recall[k]:5.1f} %" for k in ks))
    if result.labels is not None and result.labels.precision_and_recall is not None:
        precision, share_found = result.labels.precision_and_recall
        told = f"precision {precision:.3f}, recall {share_found:.3f}" if share_found > 0 else "none"
        print(f"planted noise found by the teacher: {told}")
    print(f"{result.status}; {result.outcome.steps_taken} steps, {result.seconds['total']:.0f} s in all")
    print(f"report: {report}")


def _exit_code(result: RunResult) -> int:
    stopped_by = result.outcome.stopped_by
    return 128 + signal.Signals[stopped_by].value if stopped_by.startswith("SIG") else 0
