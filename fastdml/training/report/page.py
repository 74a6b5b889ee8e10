"""The whole page, put together from its sections."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any

import torch

from fastdml.training.catalogue import find_loss
from fastdml.training.checkpoint import write_atomically
from fastdml.training.config import TrainConfig
from fastdml.training.experiment import RunResult
from fastdml.training.report import sections
from fastdml.training.report.centers import centers_lead, centers_section
from fastdml.training.report.elements import card, section
from fastdml.training.report.fusion import fusion_headline, fusion_section
from fastdml.training.report.gallery import class_rows, example_strip, retrieval_gallery
from fastdml.training.report.noise import labels_lead, labels_section
from fastdml.training.report.style import STYLE
from fastdml.training.run import RunDirectory, read_lines


def write_report(result: RunResult, run: RunDirectory) -> None:
    """Write the run's report.html."""
    text = render_report(result, run.name, read_lines(run.path / "log.jsonl"))
    write_atomically(run.report, text.encode())


def render_report(result: RunResult, name: str, log: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML with everything inside: pictures, charts and style; no script, nothing to fetch.

    ``log`` holds the records of log.jsonl.
    """
    parts = [
        sections.headline(result, name),
        sections.stats(result, log),
        _task(result),
        section("Retrieval on unseen classes", "", sections.recall_table(result)),
        section("Training", "", sections.curves(result, log)),
    ]
    if result.centers is not None:
        body = centers_section(result.centers, result.train)
        parts.append(section("Centres of classes", centers_lead(result.centers), body))
    if result.labels is not None:
        body = labels_section(result.labels, result.train)
        parts.append(section("Labels", labels_lead(result.labels), body))
    parts.append(_gallery(result))
    domains = sections.domain_bars(result)
    if domains:
        parts.append(section("Recall@1 by typeface of the query", "", domains))
    panel = result.panel
    if panel is not None:
        parts.append(
            section("What fusing buys on this machine", fusion_headline(panel), fusion_section(panel))
        )
    parts.append(section("Settings and machine", "", sections.facts(result, command(result.config))))
    parts.append(
        '<footer class="small">Made by fastdml. Beside this page: config.json, metrics.json, log.jsonl (one '
        "line a step), evaluations.jsonl, weights.safetensors, where the loss learnt something "
        "loss.safetensors, and where labels were planted or distilled noise.json, labels.safetensors and "
        "teacher.pt.</footer>"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · fastdml</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def command(config: TrainConfig) -> str:
    """The `fastdml train` command that repeats a run: every setting that differs from its default."""
    words = ["fastdml", "train"]
    defaults = {field.name: field.default for field in fields(config)}
    defaults["samples_per_class"] = find_loss(config.loss).samples_per_class
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ("data", "loss", "seed") or value != defaults[field.name]:
            option = "--" + field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(option if value else option.replace("--", "--no-", 1))
            else:
                words += [option, str(value)]
    return shlex.join(words)


def _task(result: RunResult) -> str:
    train, test = result.train, result.test
    strips = [
        ("A class to learn from", train, class_rows(train, 0, torch.ones(len(train), dtype=torch.bool))),
        ("A class to find: images of the gallery", test, class_rows(test, 0, test.is_gallery)),
        ("The same class, as queries in other looks", test, class_rows(test, 0, ~test.is_gallery)),
    ]
    body = "".join(
        f'<div class="group"><h3>{title}</h3>{example_strip(split, rows)}</div>'
        for title, split, rows in strips
        if rows.numel()
    )
    return section(
        "The task",
        f"{train.num_classes} classes ({len(train)} images) to learn what makes two images the same; then "
        f"{test.num_classes} other classes ({len(test)} images) to find them again by distance alone.",
        card(body),
    )


def _gallery(result: RunResult) -> str:
    return section(
        "What it finds",
        "A query, then the gallery images nearest to it. ✓ in a green solid frame is right, ✗ in a red "
        "dashed frame is wrong; the number is the cosine similarity. The queries were drawn at random with "
        "the run's seed, not picked.",
        card(retrieval_gallery(result.final, result.test, result.config.seed)),
    )
