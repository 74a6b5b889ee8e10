"""The report: one file that needs nothing else, says what was measured and survives odd names."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from fastdml.training.centers import Drawn
from fastdml.training.fusion_panel import FusionPanel, FusionRow
from fastdml.training.report import render_report
from fastdml.training.report.fusion import fusion_headline, write_bytes, write_seconds
from fastdml.training.report.gallery import png_data, retrieval_gallery
from fastdml.training.report.page import command

VOID = {"meta", "img", "line", "polyline"}


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


PANEL = FusionPanel(
    rows=[
        FusionRow(128, 0.0005, 0.002, 100_000, 1_000_000, 20),
        FusionRow(4096, 0.08, 1.6, 3_000_000, None, 3),
    ],
    backend="cpu",
    dim=64,
    samples_per_class=8,
    how="Memory: as measured.",
    seconds=12.0,
)


@pytest.fixture
def report(run):
    """The page of a tiny run with a panel, and the run's result."""
    result, _ = run()
    result.panel = PANEL
    records = [
        {"step": i + 1, "loss": 1.0 / (i + 1), "step_seconds": 0.08, "loss_seconds": 0.002} for i in range(6)
    ]
    return render_report(result, "a <run> & more", records), result


def test_it_is_whole_html_with_nothing_to_fetch(report):
    page = Page(report[0])
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            if attributes.get(name):
                assert attributes[name].startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?://", report[0])
    assert report[0].startswith("<!doctype html>")


def test_the_figures_are_in_it(report):
    text, result = report
    words = " ".join(Page(text).text)
    for row in result.rows.values():
        for value in row.values():
            assert f"{100 * value:.1f} %" in words
    assert "20.0" in words  # 1.6 s against 0.08 s
    assert "1.6 s" in words
    assert "500 µs" in words
    assert "100 kB" in words
    assert "Memory: as measured." in words
    assert "2.5 % of the step" in words  # the loss's share of a step
    assert result.environment.torch in words


def test_names_are_escaped(report):
    assert "a &lt;run&gt; &amp; more" in report[0]
    assert "<run>" not in report[0]
    assert "class &lt;8&gt; &amp; co, plain" in report[0]


def test_right_and_wrong_are_told_apart_by_mark_and_by_colour_class(run):
    result, _ = run(steps=2)
    split, found = result.test, result.final
    tags = Page(retrieval_gallery(found, split, seed=0)).tags
    shown = [attributes["class"] for tag, attributes in tags if tag == "figure"]
    images = [attributes["alt"] for tag, attributes in tags if tag == "img"]
    assert len(shown) == len(images) > 9
    query = None
    for kind, name in zip(shown, images, strict=True):
        label = name.split(",")[0]
        if kind == "query":
            query = label
        else:
            assert kind == ("hit right" if label == query else "hit wrong")
    text = " ".join(Page(retrieval_gallery(found, split, seed=0)).text)
    assert text.count("✓") == shown.count("hit right")
    assert text.count("✗") == shown.count("hit wrong")


def test_the_gallery_depends_on_the_seed_alone(run):
    result, _ = run(steps=2)
    again = retrieval_gallery(result.final, result.test, seed=0)
    assert retrieval_gallery(result.final, result.test, seed=0) == again
    assert retrieval_gallery(result.final, result.test, seed=1) != again


def test_pictures_keep_their_pixels():
    pixels = torch.randint(0, 256, (1, 9, 7), dtype=torch.uint8)
    data = base64.b64decode(png_data(pixels).split(",")[1])
    assert (torch.tensor(list(Image.open(io.BytesIO(data)).tobytes())) == pixels.flatten()).all()


def test_a_run_without_panel_domains_or_steps(run, recorder):
    result, _ = run(steps=1, evaluations=0)
    result.test = replace(result.test, domains=None, domain_names=())
    text = render_report(result, "bare", [])
    Page(text)
    assert "What fusing buys" not in text
    assert "by typeface" not in text


def test_an_empty_panel_says_why(report):
    _, result = report
    result.panel = replace(PANEL, rows=[], backend="reference", how="There is nothing to compare it with.")
    assert "There is nothing to compare it with." in render_report(result, "x", [])


def test_the_headline_of_the_panel_is_honest_about_losing():
    assert "20.0 times faster" in fusion_headline(PANEL)
    slow = replace(PANEL, rows=[FusionRow(128, 0.002, 0.001, 2_000_000, 1_000_000, 5)])
    assert "2.0 times slower" in fusion_headline(slow)
    assert "2 MB instead of 1 MB" in fusion_headline(slow)


def test_the_command_repeats_the_settings(settings):
    from fastdml.training import TrainConfig

    config = TrainConfig(**{**settings, "augment": False, "seconds": None})
    words = command(config).split()
    assert words[:4] == ["fastdml", "train", "--data", "tiny"]
    assert words[words.index("--steps") + 1] == "6"
    assert "--no-augment" in words
    assert "--learning-rate" not in words
    assert words[words.index("--samples-per-class") + 1] == "4"


@pytest.mark.parametrize(("samples", "said"), [(2, False), (8, True)])
def test_the_command_leaves_out_only_what_the_loss_chooses_itself(samples, said):
    from fastdml.training import TrainConfig

    words = command(TrainConfig(loss="soft-triple", samples_per_class=samples)).split()
    assert ("--samples-per-class" in words) == said


def test_units():
    assert write_seconds(0.00012) == "120 µs"
    assert write_seconds(0.0834) == "83.4 ms"
    assert write_seconds(2.0) == "2 s"
    assert write_bytes(999) == "999 B"
    assert write_bytes(1_450_000) == "1.45 MB"
    assert write_bytes(0) == "0 B"


def test_centres_are_shown_where_there_are_several(run):
    result, _ = run(loss="soft-triple", steps=4)
    text = render_report(result, "centres", [])
    page = Page(text)
    words = " ".join(page.text)
    counts = result.centers.counts[-1]
    assert "Every class began with 10 centres." in words
    assert f"In the end {counts.curve[-1][1]:.1f} of them differ" in words
    assert "above 0.9 joins them" in words
    for number in set(counts.final):
        assert f"{counts.final.count(number)} class" in words
    assert f"{result.centers.mean_used:.1f} have drawn a training image" in words
    assert all(result.train.class_names[label] in words for label in result.centers.shown)
    rows = [attributes for tag, attributes in page.tags if attributes.get("class") == "drawn"]
    assert len(rows) == sum(map(result.centers.used, result.centers.shown))
    assert "loss.safetensors" in words


def test_idle_and_merged_centres_are_told_apart(run):
    result, _ = run(loss="soft-triple", steps=2)
    result.centers.drawn = {
        0: [Drawn(3, [4, 2], [0.9, 0.7]), Drawn(1, [0], [0.5]), Drawn(1, [], [])],
        1: [Drawn(10, [8], [0.25])],
    }
    result.centers.shown = [1, 0]
    words = " ".join(Page(render_report(result, "x", [])).text)
    assert "3 different centres, of which 1 has drawn no image." in words
    assert "3 centres in one, cosine 0.80" in words
    assert "1 different centre." in words
    assert "10 centres in one, cosine 0.25" in words


@pytest.mark.parametrize("loss", ["multi-similarity", "arcface"])
def test_losses_of_one_centre_or_none_have_no_such_section(run, loss):
    result, path = run(loss=loss, steps=2)
    text = render_report(result, "x", [])
    assert "Centres of classes" not in text
    assert json.loads((path / "metrics.json").read_text())["centers"] is None
