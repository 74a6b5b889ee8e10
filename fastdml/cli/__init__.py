"""The command `fastdml`. The core install has no command-line packages; `fastdml doctor` works there too."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

# Modules that only the extra `train` brings.
EXTRA_MODULES = ("typer", "rich", "numpy", "PIL", "safetensors", "accelerate")
if sys.version_info < (3, 11):
    EXTRA_MODULES += ("tomli",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with ``arguments`` (None: those of the process) and end the process with its exit code.

    0: done. 1: it failed. 2: an argument cannot work. 130, 143: stopped by Ctrl-C or SIGTERM, files complete.
    """
    # Read once, when torch is loaded. Threads that spin while they wait crawl where another program wants a
    # core: a training step took 338 ms, with this 205 ms, on two cores one of which was taken.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["doctor"]:
        from fastdml.cli.doctor import doctor

        doctor()
        sys.exit(0)
    missing = [name for name in EXTRA_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        _refuse(words, missing)
    from fastdml.cli.app import app

    app(args=words, prog_name="fastdml")


def _refuse(words: Sequence[str], missing: Sequence[str]) -> None:
    what = f"fastdml {words[0]}" if words and not words[0].startswith("-") else "The command line"
    sys.exit(
        f"{what} needs packages that are not installed ({', '.join(missing)}): pip install 'fastdml[train]'. "
        "Without them only `fastdml doctor` works."
    )
