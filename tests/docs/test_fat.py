"""The page about FAT shows what its tool measures, and its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.fat_bound import table

PAGE = (Path(__file__).parents[2] / "docs" / "fat.md").read_text(encoding="utf-8")


def test_the_table_of_the_bound_is_what_is_measured() -> None:
    def numbers(line: str) -> list[float]:
        return [float(cell) for cell in line.strip("| ").split("|")]

    head, rule, *rows = table()
    shown = PAGE[PAGE.index(head) :].splitlines()
    assert shown[1] == rule
    for row, line in zip(rows, shown[2:], strict=False):
        assert numbers(line) == pytest.approx(numbers(row), abs=1.5e-4)  # the last digit is rounded


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_code_runs(code: str) -> None:
    exec(compile(code, "docs/fat.md", "exec"), {})
