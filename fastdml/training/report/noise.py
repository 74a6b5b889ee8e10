"""The section on the training labels: what was planted, what the teacher trusts, and what it doubts most."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdml.data import Split
from fastdml.noise import DistilledLabels
from fastdml.training.batches import class_indices
from fastdml.training.distillation import LabelFindings
from fastdml.training.report.charts import Series, line_chart, linear_axis
from fastdml.training.report.elements import Bar, bar_list, card, side_by_side
from fastdml.training.report.pictures import Pictures

_BINS = 10
_SHOWN = 12
_KINDS = {
    "wrong-id": "images have the label of another class",
    "no-id": "images are a patchwork that shows none of the classes",
    "several-ids": "images are there a second time under another class",
}


def labels_lead(labels: LabelFindings) -> str:
    """What was planted and what the teacher found, in sentences."""
    sentences = []
    planted, found = labels.planted, labels.distilled
    if planted is not None:
        noisy = int(planted.is_noisy.sum())
        sentences.append(f"Planted on purpose: {noisy} of {len(planted.labels)} {_KINDS[planted.kind]}.")
    if found is not None:
        sentences.append(
            f"A teacher distrusts {int((~found.trusted).sum())} of {len(found)} labels and predicts another "
            f"class for {int(found.changed.sum())}."
        )
    if labels.precision_and_recall is not None:
        precision, recall = (_percent(value) for value in labels.precision_and_recall)
        sentences.append(
            f"Of what it distrusts, {precision} was planted (precision); of what was planted, it distrusts "
            f"{recall} (recall)."
        )
    return " ".join(sentences)


def labels_section(labels: LabelFindings, split: Split) -> str:
    """Trust by round, the probabilities of the given labels, and the images it doubts most; empty without
    a teacher's labels.
    """
    found = labels.distilled
    if found is None:
        return ""
    noisy = labels.planted.is_noisy if labels.planted is not None else None
    without = len(found.classes_without_trust)
    note = "Each round trains on the images that the one above trusts."
    if without:
        note += f" {without} {'class has' if without == 1 else 'classes have'} no trusted image in the end."
    return side_by_side(
        card(_histogram(found, noisy), "How probable the teacher finds the given label", _HISTOGRAM_NOTE),
        card(_rounds(found), "Labels trusted after each round", note),
    ) + card(_doubts(found, noisy, split), "The labels it doubts most", _DOUBTS_NOTE)


_HISTOGRAM_NOTE = (
    "Share of the labels in each tenth of the probability, drawn at its middle. A student's loss takes the "
    "teacher's predictions; only images of trusted labels form centroids."
)
_DOUBTS_NOTE = (
    "Three images each: the training image with the probability of its label, then the image that the "
    "teacher trusts most of the given class and of the class that it predicts. A dashed frame marks planted "
    "noise."
)


def _histogram(found: DistilledLabels, noisy: Tensor | None) -> str:
    everything = torch.ones_like(found.trusted)
    groups = {"labels": (everything, 1)} if noisy is None else {"clean": (~noisy, 1), "planted": (noisy, 2)}
    series = [
        Series(name, shares_by_tenth(found.own_probability[member]), colour, marks=True)
        for name, (member, colour) in groups.items()
        if bool(member.any())
    ]
    most = max(share for line in series for _, share in line.points)
    return line_chart(
        "Share of the labels over the probability of the given label",
        linear_axis("probability of the given label", 0, 1),
        linear_axis("share of the labels", 0, most, lambda value: f"{100 * value:.0f} %"),
        series,
        _percent,
    )


def shares_by_tenth(probabilities: Tensor) -> list[tuple[float, float]]:
    """(middle of a tenth of [0, 1], share of the values in it) for all ten; values [n], n at least 1."""
    tenths = (probabilities * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.bincount(tenths, minlength=_BINS).tolist()
    return [((tenth + 0.5) / _BINS, count / len(probabilities)) for tenth, count in enumerate(counts)]


def _rounds(found: DistilledLabels) -> str:
    return bar_list(
        Bar(f"round {number}" if number else "all images", trusted / len(found), str(trusted))
        for number, trusted in enumerate(found.trusted_by_round)
    )


def _doubts(found: DistilledLabels, noisy: Tensor | None, split: Split) -> str:
    pictures = Pictures(split)
    classes = class_indices(split)
    parts = []
    for row in found.own_probability.argsort(stable=True)[:_SHOWN].tolist():
        planted = noisy is not None and bool(noisy[row])
        frame = ' class="planted" title="planted noise"' if planted else ""
        parts.append(
            f'<div class="doubt"><figure{frame}>{pictures.image(row)}'
            f"<figcaption>p {float(found.own_probability[row]):.1g}</figcaption></figure>"
        )
        for word, label in (("given", found.labels[row]), ("predicted", found.predicted[row])):
            example = _most_trusted(found, classes == label, row)
            parts.append(f"<figure>{pictures.image(example)}<figcaption>{word}</figcaption></figure>")
        parts.append("</div>")
    return f'<div class="doubts">{"".join(parts)}</div>'


def _most_trusted(found: DistilledLabels, member: Tensor, other_than: int) -> int:
    """The row of a class whose label is the most probable; another one than the image itself, if it can."""
    probability = torch.where(member, found.own_probability, -1.0)
    probability[other_than] = torch.where(member[other_than], -0.5, -1.0)
    return int(probability.argmax())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == share else "none"
