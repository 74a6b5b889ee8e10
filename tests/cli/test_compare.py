"""`fastdml compare` from its words to its files."""

from __future__ import annotations

import io
import json
from dataclasses import fields

import pytest
from rich.console import Console

from fastdml.training.catalogue import LOSSES
from fastdml.training.comparison import Cell, Outcome
from fastdml.training.comparison.display import BarDisplay, LineDisplay, make_display
from fastdml.training.records import StepRecord

SMALL = "--steps 2 --batch 16 --network-width 4 --embedding-dim 8 --warmup-steps 1 --evaluations 1"
FINISHED = Cell("a", 0, 2, None, 3.0, "cpu", None, ((5, 0.25),), 5, {1: 0.5, 2: 0.6, 4: 0.7, 8: 0.75}, 0.25)
FAILED = Cell("b", 0, 2, None, 3.0, "cpu", None, failure="step 3 gave loss nan")


def record(step):
    figures = dict.fromkeys((one.name for one in fields(StepRecord)), 0.1)
    return StepRecord(**{**figures, "step": step, "seconds": 0.1 * step})


def test_it_compares_on_the_built_in_data_and_goes_on(tmp_path, call):
    out = tmp_path / "comparison"
    words = ["compare", "--losses", "triplet-semihard, soft-triple", "--seeds", "1", *SMALL.split()]
    code, output, _ = call(*words, "--out", str(out))
    assert code == 0
    assert f"page: {out / 'index.html'}" in output
    content = json.loads((out / "comparison.json").read_text())
    rows = {row["loss"]: row for row in content["losses"]}
    assert rows.keys() == {"triplet-semihard", "soft-triple"}
    assert all(f"{100 * row['R@1']['mean']:.1f}" in output for row in rows.values())
    assert [rows[name]["samples_per_class"] for name in ("triplet-semihard", "soft-triple")] == [8, 2]
    assert content["protocol"]["classes"] == {"training": 160, "validation": 40, "test": 200}
    assert content["protocol"]["settings"] == {
        "data": "glyphs",
        "steps": 2,
        "batch": 16,
        "embedding_dim": 8,
        "network_width": 4,
        "learning_rate": 0.005,
        "weight_decay": 0.05,
        "warmup_steps": 1,
        "evaluations": 1,
        "augment": True,
        "validation_share": 0.2,
        "kmeans_seed": 0,
        "backend": None,
    }
    code, output, _ = call(*words, "--out", str(out))
    assert code == 0
    assert "2 cells, 2 of them there already" in output
    words[words.index("2")] = "3"
    code, _, errors = call(*words, "--out", str(out))
    assert code == 2
    assert "error: out must be a new folder or a comparison under the same protocol" in errors
    assert "steps was 2, is 3 (overwrite starts anew)" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--losses tripplet", "error: loss must be one of"),
        ("--seeds 0", "error: seeds must be at least 1, got 0"),
        ("--batch 13", "error: batch must be a multiple of samples_per_class"),
        ("--data mnist", "error: data must be one of glyphs, got 'mnist'"),
        ("--losses soft-triple --batch 400", "batch needs 200 classes, but glyphs has only 160 to train on"),
    ],
)
def test_what_cannot_work_is_named_and_leaves_nothing(tmp_path, call, words, message):
    out = tmp_path / "comparison"
    code, _, errors = call("compare", *words.split(), "--out", str(out))
    assert code == 2
    assert message in errors
    assert not out.exists()


@pytest.mark.parametrize(("to_come", "expected"), [(3, 130), (0, 0)])
def test_all_losses_by_default_and_the_exit_code_of_ctrl_c(tmp_path, call, monkeypatch, to_come, expected):
    asked = {}

    def stopped(protocol, losses, seeds, out, display, overwrite):
        asked.update(losses=losses, seeds=list(seeds), overwrite=overwrite)
        return Outcome([FINISHED, FAILED], to_come, "SIGINT")

    monkeypatch.setattr("fastdml.cli.compare.run_comparison", stopped)
    code, output, _ = call("compare", "--out", str(tmp_path / "x"), "--overwrite")
    assert code == expected
    assert asked == {"losses": list(LOSSES), "seeds": [0, 1, 2], "overwrite": True}
    assert ("cells are still to come" in output) == bool(to_come)
    assert "failed" in output
    assert "50.0" in output


def test_what_nmi_needs_is_told_with_an_exit_code(tmp_path, call, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else found(name))
    code, _, errors = call("compare", "--out", str(tmp_path / "x"))
    assert code == 1
    assert "pip install 'fastdml[evaluate]'" in errors
    assert not (tmp_path / "x").exists()


def show(display):
    display.begin(1, 4)
    display.on_cell("a", 0)
    for step in (1, 2):
        display.on_step(record(step), 2)
    display.on_cell_done(FINISHED)
    display.on_cell("b", 0)
    display.on_cell_done(FAILED)
    display.on_note("a [note]")
    display.close()


def test_lines_where_there_is_no_terminal(capsys):
    display = make_display(Console(file=io.StringIO(), force_terminal=False))
    assert isinstance(display, LineDisplay)
    show(display)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["4 cells, 1 of them there already", "2/4  a, seed 0"]
    assert lines[2].startswith("2/4  a, seed 0: R@1 50.0 %, NMI 25.0 %, weights of step 5, 3 s; 0:00:0")
    assert lines[4].startswith("3/4  b, seed 0: failed, step 3 gave loss nan; ")
    assert lines[5] == "note: a [note]"


def test_bars_on_a_terminal():
    file = io.StringIO()
    display = make_display(Console(file=file, force_terminal=True, width=110, color_system=None))
    assert isinstance(display, BarDisplay)
    show(display)
    text = file.getvalue()
    assert "all cells" in text
    assert "1/4" in text
    assert "3/4" in text
    assert "a, seed 0: R@1 50.0 %, NMI 25.0 %, weights of step 5, 3 s" in text
    assert "note: a [note]" in text
