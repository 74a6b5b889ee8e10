"""The report on labels: the numbers of the run, images in the order of doubt, nothing where there is none."""

from __future__ import annotations

import re

import pytest
import torch

from fastdml.data import Split
from fastdml.noise import CorruptedLabels, DistilledLabels
from fastdml.soft_labels import SoftLabels
from fastdml.training.distillation import LabelFindings
from fastdml.training.report import render_report
from fastdml.training.report.noise import labels_lead, labels_section, shares_by_tenth
from fastdml.training.report.pictures import Pictures

OWN = torch.tensor([0.95, 0.1, 0.8, 0.7, 0.02, 0.6])
NOISY = torch.tensor([False, True, False, False, True, True])


@pytest.fixture
def split():
    """Six images of the classes 0, 1 and 2 of a larger set, each of a grey of its own."""
    everyone = torch.ones(6, dtype=torch.bool)
    images = (40 + 30 * torch.arange(6)).byte().view(6, 1, 1, 1).expand(6, 1, 16, 16).contiguous()
    labels = torch.tensor([3, 3, 5, 5, 7, 7])
    return Split("s", images, labels, tuple("abcdefgh"), everyone, everyone)


@pytest.fixture
def found():
    predicted = torch.tensor([0, 2, 1, 1, 0, 2])
    return DistilledLabels(
        SoftLabels(predicted[:, None], torch.ones(6, 1)),
        torch.tensor([0, 0, 1, 1, 2, 2]),
        OWN,
        predicted,
        OWN >= 0.65,
        (2, 3),
    )


@pytest.fixture
def planted(split):
    return CorruptedLabels(split.labels, torch.arange(6), NOISY, "wrong-id", 0.5, 0)


def test_the_lead_counts_what_was_planted_and_found(planted, found):
    text = labels_lead(LabelFindings(planted, found))
    assert "3 of 6 images have the label of another class." in text
    assert "distrusts 3 of 6 labels and predicts another class for 2." in text
    assert "Of what it distrusts, 100.0 % was planted" in text
    assert labels_lead(LabelFindings(None, found)).startswith("A teacher distrusts 3 of 6")
    assert labels_lead(LabelFindings(planted, None)).endswith("another class.")


def test_a_share_of_nothing_is_not_a_number_on_the_page(planted, found):
    clean = CorruptedLabels(planted.labels, planted.source, torch.zeros(6).bool(), "no-id", 0.0, 0)
    text = labels_lead(LabelFindings(clean, found))
    assert "it distrusts none (recall)" in text
    assert "nan" not in text


def test_the_most_doubted_come_first_beside_what_was_given_and_predicted(split, planted, found):
    text = labels_section(LabelFindings(planted, found), split)
    doubts = text.split('<div class="doubt">')[1:]
    pictures = Pictures(split)
    # row, the most trusted of the given class, the most trusted of the predicted class; never itself
    expected = [(4, 5, 0), (1, 0, 5), (5, 4, 4), (3, 2, 2), (2, 3, 3), (0, 1, 1)]
    assert len(doubts) == len(expected)
    for doubt, rows in zip(doubts, expected, strict=True):
        images = re.findall(r"<img [^>]*>", doubt)
        assert images == [pictures.image(row) for row in rows]
        assert ('class="planted"' in doubt) == bool(NOISY[rows[0]])
        assert f"p {float(OWN[rows[0]]):.1g}<" in doubt


def test_the_histogram_has_a_line_for_what_was_planted(split, planted, found):
    with_noise = labels_section(LabelFindings(planted, found), split)
    assert "clean: 33.3 % at 0.95" in with_noise  # one of three
    assert "planted: 33.3 % at 0.05" in with_noise
    without = labels_section(LabelFindings(None, found), split)
    assert "labels: 16.7 % at 0.05" in without
    assert "planted:" not in without
    assert 'class="planted"' not in without


def test_rounds_and_classes_without_trust_are_told(split, found):
    text = labels_section(LabelFindings(None, found), split)
    assert [int(n) for n in re.findall(r'class="share">(\d+)<', text)] == [2, 3]
    assert "1 class has no trusted image in the end" in text
    assert labels_section(LabelFindings(None, None), split) == ""


def test_a_histogram_counts_every_value_once():
    values = torch.tensor([0.0, 0.0999, 0.15, 0.999, 1.0])
    found = shares_by_tenth(values)
    assert [x for x, _ in found] == pytest.approx([0.05 + 0.1 * i for i in range(10)])
    assert [share for _, share in found] == pytest.approx([0.4, 0.2, 0, 0, 0, 0, 0, 0, 0, 0.4])


def test_a_run_with_planted_noise_says_so_and_one_without_has_no_such_section(run):
    noisy, _ = run(out="noisy", noise=0.25, noise_kind="no-id", steps=2)
    text = render_report(noisy, "x", [])
    assert "<h2>Labels</h2>" in text
    assert "12 of 48 images are a patchwork" in text
    assert "--noise 0.25 --noise-kind no-id" in text
    clean, _ = run(out="clean", steps=2)
    assert "<h2>Labels</h2>" not in render_report(clean, "x", [])
