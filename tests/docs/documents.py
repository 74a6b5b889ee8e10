"""The code of a document, taken out of it to be run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "docs"


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_as_module(name: str, code: list[str], folder: Path) -> ModuleType:
    """Runs blocks as one module from a file of that name: Triton reads its functions from their file."""
    path = folder / f"{name}.py"
    path.write_text("\n\n".join(code), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for theirs
    spec.loader.exec_module(module)
    return module
