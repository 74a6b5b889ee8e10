"""`fastdml doctor` runs with the core alone, and its table is the registry's own choice."""

import sys

import pytest
import torch

import fastdml
from fastdml.backends import select
from fastdml.cli.doctor import DTYPES, doctor


def test_doctor_without_any_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("typer", "rich", "triton", "numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    doctor()
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert ["torch", torch.__version__] in rows
    assert any(row[:2] == ["fastdml", fastdml.__version__] for row in rows)
    for dtype in DTYPES:
        name, reason = select("cpu", dtype)
        assert ["cpu", str(dtype).removeprefix("torch."), name, *reason.split()] in rows
    for name in ("triton", "cuda", "cpu", "reference"):
        can = name in fastdml.available_backends()
        assert any(row[:2] == [name, "can"] for row in rows) == can
        assert any(row[:2] == [name, "cannot:"] for row in rows) != can


def test_doctor_names_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with fastdml.use_backend("cuda"):
        doctor()
    text = capsys.readouterr().out
    assert "asked for  cuda" in text
    if not torch.cuda.is_available():
        assert "backend 'cuda' was asked for and cannot run torch.float32 on cpu" in text
