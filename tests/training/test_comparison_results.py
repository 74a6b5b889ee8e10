"""Table, figure and page of a comparison, from cells made by hand."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
import torch

from fastdml.training.catalogue import LOSSES
from fastdml.training.comparison import Cell, Protocol, write_results
from fastdml.training.comparison.figure import standalone_figure
from fastdml.training.comparison.folder import RESULTS, ComparisonFolder
from fastdml.training.comparison.page import render_page
from fastdml.training.comparison.published import PUBLISHED, ranked
from fastdml.training.comparison.results import markdown
from fastdml.training.comparison.table import rows_of, within_spread

VOID = {"meta"}
HEADER = Protocol().header(torch.device("cpu"), {"training": 160, "validation": 40, "test": 200})


def cell(loss, seed, recall_at_1, center_rate=None, samples=8, step=300):
    """A finished cell; Recall@2, 4 and 8 and NMI lie at fixed distances from Recall@1."""
    recall = {k: recall_at_1 + by for k, by in ((1, 0.0), (2, 0.1), (4, 0.15), (8, 0.2))}
    curve = ((150, 0.3), (300, 0.4))
    return Cell(
        loss, seed, samples, center_rate, 60.0, "cpu", "abc+", curve, step, recall, recall_at_1 + 0.05
    )


def failed(loss, seed, reason="step 3 gave loss nan"):
    return Cell(loss, seed, 8, None, 2.0, "cpu", None, failure=reason)


CELLS = [
    cell("lifted", 0, 0.50),
    cell("lifted", 1, 0.54, step=150),
    cell("soft-triple", 0, 0.60, 2.0, 2),
    cell("soft-triple", 1, 0.62, 2.0, 2),
    cell("a <loss> & more", 1, 0.59),
    cell("a <loss> & more", 0, 0.62),
    cell("circle", 0, 0.40),
    failed("circle", 1),
    failed("triplet", 0),
    failed("triplet", 1, "the embeddings after step 5 are not finite"),
]


class Page(HTMLParser):
    """Checks that tags nest, and collects text and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.rows and "tr" in self.open:
            self.rows[-1].append(data)

    def handle_startendtag(self, tag, attrs):
        """An empty element of SVG needs no end."""
        self.tags.append((tag, dict(attrs)))


def test_mean_and_deviation_are_those_of_the_seeds():
    rows = {row.loss: row for row in rows_of(CELLS)}
    lifted = rows["lifted"]
    assert lifted.n == 2
    assert lifted.figures["R@1"].mean == pytest.approx(0.52)
    assert lifted.figures["R@1"].deviation == pytest.approx(0.0282842712)  # of the sample: n - 1
    assert lifted.figures["R@8"].mean == pytest.approx(0.72)
    assert lifted.figures["NMI"].mean == pytest.approx(0.57)
    assert str(lifted.figures["R@1"]) == "52.0 ± 2.8"
    assert lifted.best_steps == [300, 150]
    assert (lifted.centred, rows["soft-triple"].centred) == (False, True)
    assert (rows["circle"].n, str(rows["circle"].figures["R@1"])) == (1, "40.0")
    assert (rows["triplet"].n, rows["triplet"].figures, rows["triplet"].seconds) == (0, {}, None)


def test_the_highest_comes_first_and_what_failed_last():
    rows = rows_of(CELLS)
    assert [row.loss for row in rows] == ["soft-triple", "a <loss> & more", "lifted", "circle", "triplet"]
    assert rows_of(list(reversed(CELLS))) == rows


def test_a_lead_smaller_than_the_spread_is_no_lead():
    assert [row.loss for row in within_spread(rows_of(CELLS))] == ["a <loss> & more"]
    assert within_spread(rows_of([failed("triplet", 0)])) == []
    assert within_spread([]) == []


def test_ranks_are_among_the_losses_that_both_tables_have():
    cells = [cell("lifted", 0, 0.7), cell("soft-triple", 0, 0.6), cell("triplet-semihard", 0, 0.5)]
    found = {one.published.loss: one for one in ranked(rows_of([*cells, cell("circle", 0, 0.9)]))}
    ranks = {loss: (one.rank_there, one.rank_here) for loss, one in found.items() if one.rank_here}
    assert ranks == {"soft-triple": (1, 2), "lifted": (2, 1), "triplet-semihard": (3, 3)}
    assert found["n-pairs"].rank_there is None
    assert [one.published.name for one in ranked([])] == [one.name for one in PUBLISHED]


def test_the_published_losses_are_those_of_the_catalogue():
    names = {one.loss for one in PUBLISHED}
    assert names <= set(LOSSES)
    assert len(names) == len(PUBLISHED)


@pytest.mark.parametrize("to_come", [0, 3])
def test_the_files(tmp_path, to_come):
    folder = ComparisonFolder(tmp_path)
    folder.start(HEADER)
    for one in CELLS:
        folder.keep(one)
    write_results(folder, to_come)
    assert all((tmp_path / name).stat().st_size > 500 for name in RESULTS)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert (content["cells"], content["to_come"], content["protocol"]) == (10, to_come, HEADER)
    losses = {row["loss"]: row for row in content["losses"]}
    assert losses["lifted"]["R@2"] == {
        "mean": pytest.approx(0.62),
        "standard_deviation": pytest.approx(0.0282842712),
    }
    assert losses["circle"]["failed"] == [{"seed": 1, "reason": "step 3 gave loss nan"}]
    assert losses["triplet"]["n"] == 0
    folder.start(HEADER, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"protocol.json", "cells"}
    assert folder.cells() == []


def test_the_markdown():
    text = markdown(HEADER, CELLS, to_come=2)
    assert "| soft-triple | 2 | 64 x 2 | 61.0 ± 1.4 | 71.0 ± 1.4 |" in text
    assert "| circle | 1, 1 failed | 16 x 8 | 40.0 |" in text
    assert "| triplet | failed | 16 x 8 | - |" in text
    assert "- triplet, seed 0: step 3 gave loss nan; seed 1: the embeddings after step 5" in text
    assert "2 of 12 cells are still to come" in text
    assert "Not measured here." in text
    assert "| SoftTriple | soft-triple | 60.1 | 71.9 | 81.2 | 88.5 | 66.2 | 1 | 1 |" in text
    assert "| N-pairs | n-pairs | 51.0 | 63.3 | 74.3 | 83.2 | 60.4 | - | - |" in text
    assert "40 of the 200 training classes" in text
    assert "38400 in all" in text
    widths = {len(block.split("\n")[0].split("|")) for block in re.findall(r"(?:^\|.*\n)+", text, re.M)}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.strip().split("\n")}) == 1
    assert len(widths) == 2
    assert "still to come" not in markdown(HEADER, CELLS, to_come=0)


def test_the_page_is_whole_and_says_what_was_found():
    text = render_page(HEADER, CELLS)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "base")
        assert "href" not in attributes
        assert "src" not in attributes
    assert not re.search(r"url\(|@import", text)
    rows = {row[0]: " ".join(row[1:]) for row in page.rows}
    figures = " ".join(f"{value}  ± 1.4" for value in ("61.0", "71.0", "76.0", "81.0", "66.0"))
    assert rows["soft-triple"].startswith(f"{figures} 2 64 \N{MULTIPLICATION SIGN} 2 300 ")
    assert "1 failed" in rows["circle"]
    assert "seed 1: the embeddings after step 5 are not finite" in rows["triplet"]
    assert "60.1 71.9 81.2 88.5 66.2 1 1 61.0" in rows["SoftTriple"]
    assert "57.4 - - - -" in rows["MS"]
    words = " ".join(page.text)
    assert "61.0 %" in words
    assert "does not tell it from: a <loss> & more." in words
    assert "are compared over different seeds" in words
    assert "complete" in words
    assert "a &lt;loss&gt; &amp; more" in text
    assert "<loss>" not in text


def test_the_page_of_an_unfinished_comparison():
    assert "3 of 13 cells to come" in render_page(HEADER, CELLS, to_come=3)
    for cells in ([], [failed("triplet", 0)]):
        words = " ".join(Page(render_page(HEADER, cells, to_come=2)).text)
        assert "No loss has finished yet." in words


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure(theme):
    figure = ElementTree.fromstring(standalone_figure(rows_of(CELLS), theme))
    names = [text.text for text in figure.iter() if text.get("class") == "name"]
    assert names == ["soft-triple", "a <loss> & more", "lifted", "circle", "triplet"]
    values = ["".join(text.itertext()) for text in figure.iter() if text.get("class") == "value"]
    assert values == ["61.0 ± 1.4", "60.5 ± 2.1", "52.0 ± 2.8", "40.0 ", "failed "]
    means = [dot for dot in figure.iter() if len(dot) and dot.tag.endswith("circle")]
    assert [dot.get("class") for dot in means] == ["centres", "plain", "plain", "plain"]
    places = [float(dot.get("cx")) for dot in means]
    assert places == sorted(places, reverse=True)
    assert (places[0] - places[2]) / (places[0] - places[3]) == pytest.approx(9 / 21, abs=0.005)
    seeds = [dot for dot in figure.iter() if "seed" in (dot.get("class") or "").split()]
    assert len(seeds) == 7
    spreads = [line for line in figure.iter() if "spread" in (line.get("class") or "").split()]
    assert len(spreads) == 3  # a single seed has no deviation
    width, height = map(float, figure.get("viewBox").split()[2:])
    for dot in figure.iter():
        assert 0 <= float(dot.get("cx", 0)) <= width
        assert 0 <= float(dot.get("cy", 0)) <= height


def test_the_two_themes_differ_in_colours_only():
    light, dark = (standalone_figure(rows_of(CELLS), theme) for theme in ("light", "dark"))
    assert light != dark
    assert re.sub("#[0-9a-f]{6}", "", light) == re.sub("#[0-9a-f]{6}", "", dark)
    assert "var(" not in light
