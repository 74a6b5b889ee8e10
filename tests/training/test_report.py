"""The report: one file that needs nothing else, says what was measured and survives odd names."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import pytest
import torch

from fastdml.training.centers import Drawn
from fastdml.training.fusion_panel import FusionPanel, FusionRow
from fastdml.training.report import render_report
from fastdml.training.report.fusion import fusion_headline
from fastdml.training.report.gallery import retrieval_gallery
from fastdml.training.report.units import write_bytes, write_seconds
from fastdml.training.settings_text import command_of

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


def record(step, **changes):
    """A line of a log."""
    return {
        "step": step,
        "loss": 1.0 / step,
        "learning_rate": 0.004,
        "gradient_norm": 2.5,
        "step_seconds": 0.08,
        "loss_seconds": 0.002,
        "images_per_second": 200.0,
        "memory_bytes": 1_230_000_000,
        **changes,
    }


@pytest.fixture
def report(run):
    """The page of a tiny run with a panel, and the run's result."""
    result, _ = run()
    result.panel = PANEL
    return render_report(result, "a <run> & more", [record(i + 1) for i in range(6)]), result


def test_it_is_whole_html_with_nothing_to_fetch(report):
    page = Page(report[0])
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            if attributes.get(name):
                assert re.match("data:image/(png|jpeg);base64,", attributes[name])
    assert not re.search(r"url\(|@import|https?://", report[0])
    assert report[0].startswith("<!doctype html>")


def test_the_figures_are_in_it(report):
    text, result = report
    words = " ".join(Page(text).text)
    for row in result.rows.values():
        for value in row.values():
            assert f"{100 * value:.1f} %" in words
    assert f"mAP is {100 * result.final.result.mean_average_precision:.1f} %" in words
    assert "own camera" not in words
    assert "20.0" in words  # 1.6 s against 0.08 s
    assert "1.6 s" in words
    assert "500 µs" in words
    assert "100 kB" in words
    assert "Memory: as measured." in words
    assert "2.5 % of the step" in words  # the loss's share of a step
    assert "1.23 GB" in words  # the peak of the log
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


def test_a_run_without_panel_domains_raw_pixels_or_steps(run, recorder):
    result, _ = run(steps=1, evaluations=0)
    result.dataset = replace(result.dataset, test=replace(result.test, domains=None, domain_names=()))
    del result.rows["raw pixels"]
    result.memory, result.time_by_part = {}, {}
    text = render_report(result, "bare", [])
    Page(text)
    assert "What fusing buys" not in text
    assert "by typeface" not in text
    assert "pixels" not in text
    assert "Time and memory" not in text
    untrained = result.rows["untrained"][1]
    assert f"With the untrained network {100 * untrained:.1f} % would." in text


def test_every_part_of_time_and_memory_is_a_bar_of_its_length(report):
    _, result = report
    result.time_by_part = {"waiting for images": 0.02, "network": 0.08, "loss": 0.002, "update": 0.0}
    result.memory = {"network": 4_000_000, "loss": 1_000_000}
    text = render_report(result, "x", [record(1)])
    bars = re.findall(r'<span>([^<]*)</span><span class="bar"><i style="width:([\d.]+)%"></i></span>', text)
    assert bars[:6] == [
        ("waiting for images", "25.0"),
        ("network", "100.0"),
        ("loss", "2.5"),
        ("update", "0.0"),
        ("network", "100.0"),
        ("loss", "25.0"),
    ]
    assert "102 ms together" in text
    assert "20 % of a step is spent waiting for images" in text
    result.time_by_part["waiting for images"] = 0.004
    assert "spent waiting" not in render_report(result, "x", [record(1)])


def test_notes_of_the_data_and_processes_are_told(report):
    _, result = report
    test = replace(result.test, cameras=torch.arange(36))
    result.dataset = replace(
        result.dataset, name="Cars <196>", test=test, notes=("3 images are missing: a&b.jpg", "x")
    )
    result.world_size = 4
    text = render_report(result, "x", [])
    assert "<li>3 images are missing: a&amp;b.jpg</li><li>x</li>" in text
    assert "Cars &lt;196&gt;: 8 classes (48 images)" in text
    assert "16 images each over 4 processes" in text
    assert "What a query's own camera saw of its class is left out." in text
    assert "<td>processes</td><td>4</td>" in text


def test_a_long_log_is_drawn_with_few_points_and_keeps_its_peaks(report):
    _, result = report
    log = [record(i + 1, loss=2.0, gradient_norm=1.0) for i in range(20_000)]
    log[12_345].update(loss=8.0, gradient_norm=None)
    text = render_report(result, "x", log)
    assert len(text) < len(render_report(result, "x", [record(1)])) + 100_000
    lines = [points.split() for points in re.findall(r'<polyline class="faint c1" points="([^"]*)"', text)]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert sum(height < min(heights) + 1 for height in heights) == 1
    assert heights.count(max(heights)) == len(heights) - 1


class Photos:
    """Large images in colour that are made when asked for."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, rows):
        generator = torch.Generator().manual_seed(int(rows[0]))
        return torch.randint(0, 256, (len(rows), 3, 384, 288), dtype=torch.uint8, generator=generator)


def test_photos_from_files_make_a_page_that_can_be_sent(run):
    result, _ = run(steps=2)
    result.train = replace(result.train, images=Photos(48))
    result.dataset = replace(result.dataset, test=replace(result.test, images=Photos(36)))
    text = render_report(result, "x", [])
    assert text.count("data:image/jpeg") > 100
    assert len(text) < 3_000_000


def test_a_run_on_features_shows_names_for_images(run):
    result, _ = run(steps=2)
    result.train = replace(result.train, images=torch.randn(48, 5))
    result.dataset = replace(result.dataset, test=replace(result.test, images=torch.randn(36, 5)))
    text = render_report(result, "x", [])
    Page(text)
    assert "data:image" not in text
    assert 'class="tile"' in text
    assert "A class to learn from" not in text


def test_the_command_that_repeats_the_run_is_on_the_page(report):
    text, result = report
    assert f"<code>{escape(command_of(result.config))}</code>" in text


def test_an_empty_panel_says_why(report):
    _, result = report
    result.panel = replace(PANEL, rows=[], backend="reference", how="There is nothing to compare it with.")
    assert "There is nothing to compare it with." in render_report(result, "x", [])


def test_the_headline_of_the_panel_is_honest_about_losing():
    assert "20.0 times faster" in fusion_headline(PANEL)
    slow = replace(PANEL, rows=[FusionRow(128, 0.002, 0.001, 2_000_000, 1_000_000, 5)])
    assert "2.0 times slower" in fusion_headline(slow)
    assert "2 MB instead of 1 MB" in fusion_headline(slow)


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
