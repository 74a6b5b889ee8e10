"""docs/recipes.md says what the recipes are, and its code runs."""

from __future__ import annotations

import re

from documents import FOLDER, blocks, run_as_module

from fastdml.losses import ContrastiveLoss
from fastdml.training.settings import merge_settings, recipe_paths


def test_the_table_has_every_recipe_as_it_is():
    text = (FOLDER / "recipes.md").read_text(encoding="utf-8")
    rows = {
        row[0]: row[1:] for row in re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \| ([\d,]+) \|", text, re.M)
    }
    expected = {}
    for name in recipe_paths():
        config = merge_settings(name)
        batch = f"{config.classes_per_batch} x {config.samples_per_class}"
        batch += f", memory {config.memory:,}" if config.memory else ""
        batch += f", chunks of {config.chunk}" if config.chunk else ""
        expected[name] = (config.loss, batch, f"{config.steps:,}")
    assert {name: row for name, row in rows.items() if name in expected} == expected


def test_the_options_of_a_loss_are_given_as_the_page_shows(tmp_path):
    found = run_as_module("recipes_page", blocks("recipes.md", "python"), tmp_path)
    assert isinstance(found.loss.losses["0"], ContrastiveLoss)
    assert (found.loss.losses["0"].squared, found.loss.miners["0"].pos_margin) == (True, 0.3)
