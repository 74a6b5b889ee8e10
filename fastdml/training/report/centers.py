"""The section on the centres of classes: how many differ over training, and which images they drew."""

from __future__ import annotations

from collections import Counter
from html import escape
from statistics import fmean

from fastdml.data import Split
from fastdml.training.centers import AT_RANDOM, BUSIEST, CenterCounts, CenterHistory, Drawn
from fastdml.training.report.charts import Series, line_chart, linear_axis
from fastdml.training.report.elements import Bar, bar_list, card, side_by_side
from fastdml.training.report.pictures import Pictures

_MOST_IMAGES = 16  # of a centre


def centers_lead(centers: CenterHistory) -> str:
    """How many centres there were, are and are used."""
    counts = centers.counts[-1]
    text = (
        f"Every class began with {centers.per_class} centres. In the end {counts.curve[-1][1]:.1f} of them "
        f"differ, on average; two centres are one where a chain of cosines above {1 - counts.delta:g} joins "
        "them."
    )
    if centers.mean_used is not None:
        text += f" Of those that differ, {centers.mean_used:.1f} have drawn a training image."
    return text


def centers_section(centers: CenterHistory, split: Split) -> str:
    """Charts of the number of different centres, and the training images that those of some classes drew."""
    return side_by_side(
        card(_curve(centers), "Different centres a class, over training", _curve_note(centers)),
        card(
            _distribution(centers.counts[-1]),
            f"Classes by their number of different centres, δ {centers.counts[-1].delta:g}",
        ),
    ) + card(_gallery(centers, split), "What the centres of a class have drawn", _GALLERY_NOTE)


_GALLERY_NOTE = (
    f"Training images of {AT_RANDOM} classes drawn at random with the run's seed, then of the {BUSIEST} in "
    "which the most centres draw images. Each image stands beside the centre of its class that its embedding "
    f"is the most similar to; one row a centre, of its images the {_MOST_IMAGES} most similar."
)


def _curve(centers: CenterHistory) -> str:
    steps = max(step for one in centers.counts for step, _ in one.curve)
    return line_chart(
        "Mean number of different centres a class over the steps",
        linear_axis("step", 0, max(steps, 1)),
        linear_axis("mean of the classes", 0, centers.per_class),
        [
            Series(f"δ {one.delta:g}", one.curve, colour=2 - (one is centers.counts[-1]), marks=True)
            for one in centers.counts
        ],
        lambda value: f"{value:.2f}",
    )


def _curve_note(centers: CenterHistory) -> str:
    joined = " or ".join(f"{1 - one.delta:g} (δ {one.delta:g})" for one in centers.counts)
    return f"Centres are one where a chain of cosines above {joined} joins them."


def _distribution(counts: CenterCounts) -> str:
    numbers = Counter(counts.final)
    most = max(numbers.values())
    return bar_list(
        Bar(
            f"{number} {_plural('centre', number)}",
            numbers[number] / most,
            f"{numbers[number]} {_plural('class', numbers[number])}",
        )
        for number in range(min(numbers), max(numbers) + 1)
    )


def _gallery(centers: CenterHistory, split: Split) -> str:
    pictures = Pictures(split)
    return "".join(
        _class(split.class_names[label], centers.drawn[label], pictures) for label in centers.shown
    )


def _class(name: str, drawn: list[Drawn], pictures: Pictures) -> str:
    busy = [one for one in drawn if one.images]
    idle = len(drawn) - len(busy)
    about = f"{len(drawn)} different {_plural('centre', len(drawn))}"
    if idle:
        about += f", of which {idle} {'has' if idle == 1 else 'have'} drawn no image"
    rows = "".join(_row(one, pictures) for one in busy)
    return f'<div class="group"><h3>{escape(name)}</h3><p>{about}.</p>{rows}</div>'


def _row(drawn: Drawn, pictures: Pictures) -> str:
    number = len(drawn.images)
    merged = f"{drawn.centers} centres in one, " if drawn.centers > 1 else ""
    images = "".join(pictures.image(row) for row in drawn.images[:_MOST_IMAGES])
    return (
        f'<div class="drawn"><div><b>{number} {_plural("image", number)}</b>'
        f"<span>{merged}cosine {fmean(drawn.cosines):.2f}</span></div><div>{images}</div></div>"
    )


def _plural(word: str, number: int) -> str:
    if number == 1:
        return word
    return f"{word}es" if word.endswith("s") else f"{word}s"
