"""The code of docs/pair-weights.md runs as it stands, and weighs what it says it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import blocks, run_as_module


def test_the_code_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    page = run_as_module("pair_weights", blocks("pair-weights.md", "python"), tmp_path)
    assert capsys.readouterr().out.startswith("torch.Size([1, 120]) tensor([")
    assert page.found.positive.sum() == 5
    points = sum(len(collection.get_offsets()) for collection in page.axes.collections)
    assert points == page.found.positive.sum() + page.found.negative.sum()
    assert (page.found.weight[page.found.positive] < 0).all()
    assert (page.found.weight[page.found.negative] > 0).all()
