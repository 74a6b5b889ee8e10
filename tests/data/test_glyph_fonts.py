"""The licence reader of tools/glyph_fonts.py, on copyright files of the shapes that packages have."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"

NOTICE = """\
Format: a machine-readable copyright file

Files: *
Copyright: 2001, Somebody
           2002, Somebody Else
License: MIT

Files: extra-*.ttf
Copyright: 2003, A Third
License: GPL-3+
 Copyleft in one line.

License: MIT
 First line.
 .
 Second part.
"""


@pytest.fixture
def glyph_fonts() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOOLS))
    try:
        module = importlib.import_module("glyph_fonts")

        yield module
    finally:
        sys.path.remove(str(TOOLS))


def test_text_is_found_in_its_own_paragraph(glyph_fonts: ModuleType) -> None:
    holder, name, text = glyph_fonts.read_licence(NOTICE, "plain.ttf")
    assert (name, text) == ("MIT", "First line.\n\nSecond part.")
    assert holder.split("\n") == ["2001, Somebody", "2002, Somebody Else"]


def test_last_matching_paragraph_wins(glyph_fonts: ModuleType) -> None:
    assert glyph_fonts.read_licence(NOTICE, "extra-bold.ttf")[1:] == ("GPL-3+", "Copyleft in one line.")


def test_file_that_nobody_licensed_stops_the_run(glyph_fonts: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"no paragraph of the copyright file speaks of a\.ttf"):
        glyph_fonts.read_licence(NOTICE.replace("Files: *", "Files: b.ttf"), "a.ttf")


def test_licence_that_is_not_permissive_stops_the_run(glyph_fonts: ModuleType, tmp_path: Path) -> None:
    tree = tmp_path / "fonts-x"
    notice = tree / "usr/share/doc/fonts-x/copyright"
    notice.parent.mkdir(parents=True)
    notice.write_text(NOTICE, encoding="utf-8")
    for name in ("extra-a.ttf", "plain.ttf"):
        (tree / name).write_bytes(b"font")
    good = glyph_fonts._source(glyph_fonts.Face("X", "fonts-x", "plain.ttf"), tree, "1")
    assert good.licence == "MIT"
    assert good.copyright.startswith("2001")
    with pytest.raises(
        SystemExit, match=r"fonts-x 1: licence of extra-a\.ttf is 'GPL-3\+', which is not accepted"
    ):
        glyph_fonts._source(glyph_fonts.Face("X", "fonts-x", "extra-a.ttf"), tree, "1")
