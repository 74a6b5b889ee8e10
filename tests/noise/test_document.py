"""docs/noisy-labels.md: its example runs and finds the noise that it plants."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from fastdml.noise import KINDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "noisy-labels.md").read_text(encoding="utf-8")


def test_the_example_finds_its_noise_and_trains_on_it():
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["precision"] > 0.9
    assert names["recall"] > 0.9
    assert 0 < names["value"].item() < 5
    names["value"].backward()
    assert float(names["student"].weight.grad.norm()) > 0


def test_every_kind_is_described():
    assert re.findall(r"^\| `([a-z-]+)` \|", DOCUMENT, re.MULTILINE)[: len(KINDS)] == list(KINDS)
