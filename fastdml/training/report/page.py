"""The whole page, put together from its sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch

from fastdml.training.checkpoint import write_atomically
from fastdml.training.report import sections
from fastdml.training.report.centers import centers_lead, centers_section
from fastdml.training.report.cost import cost_section
from fastdml.training.report.curves import curves
from fastdml.training.report.elements import card, section
from fastdml.training.report.embedding_map import embedding_map
from fastdml.training.report.facts import facts
from fastdml.training.report.fusion import fusion_headline, fusion_section
from fastdml.training.report.gallery import class_rows, example_strip, retrieval_gallery, worst_queries
from fastdml.training.report.noise import labels_lead, labels_section
from fastdml.training.report.pictures import Pictures
from fastdml.training.report.style import STYLE
from fastdml.training.run import RunDirectory, read_lines
from fastdml.training.run_result import RunResult
from fastdml.training.settings_text import command_of


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
        section(f"Retrieval among {result.dataset.test_classes}", "", sections.recall_table(result)),
        section("Training", "", curves(result, log)),
    ]
    cost = cost_section(result, log)
    if cost:
        parts.append(section("Time and memory", "", cost))
    if result.centers is not None:
        body = centers_section(result.centers, result.train)
        parts.append(section("Centres of classes", centers_lead(result.centers), body))
    if result.labels is not None:
        body = labels_section(result.labels, result.train)
        parts.append(section("Labels", labels_lead(result.labels), body))
    parts += [_gallery(result), _worst(result), _map(result)]
    domains = sections.domain_bars(result)
    if domains:
        # the built-in glyphs come in typefaces; elsewhere a domain is a class above the classes
        kind = "typeface" if result.dataset.layout in ("built-in", "glyphs") else "super-class"
        parts.append(section(f"Recall@1 by {kind} of the query", "", domains))
    panel = result.panel
    if panel is not None:
        parts.append(
            section("What fusing buys on this machine", fusion_headline(panel), fusion_section(panel))
        )
    parts.append(section("Settings and machine", "", facts(result, command_of(result.config))))
    parts.append(
        '<footer class="small">Made by fastdml. Beside this page: config.json, metrics.json, log.jsonl (one '
        "line a step), evaluations.jsonl, weights.safetensors, where the loss learnt something "
        "loss.safetensors, where labels were planted or distilled noise.json, labels.safetensors and "
        "teacher.pt, the last checkpoints, and where asked for the curves for TensorBoard.</footer>"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · fastdml</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _task(result: RunResult) -> str:
    train, test = result.train, result.test
    searched = class_rows(test, test.is_query)
    strips = [
        ("A class to learn from", train, class_rows(train, torch.ones(len(train), dtype=torch.bool))),
        ("A class to find: images of the gallery", test, searched[test.is_gallery[searched]]),
        ("The same class: images that are only searched for", test, searched[~test.is_gallery[searched]]),
    ]
    body = "".join(
        f'<div class="group"><h3>{title}</h3>{example_strip(split, rows)}</div>'
        for title, split, rows in strips
        if rows.numel() and not Pictures(split).are_features
    )
    if result.dataset.notes:
        body += (
            f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in result.dataset.notes)}</ul>'
        )
    return section(
        "The task",
        f"{result.dataset.name}: {train.num_classes} classes ({len(train)} images) to learn what makes two "
        f"images the same; then {result.dataset.test_classes} ({len(test)} images) to find them again by "
        "distance alone.",
        card(body) if body else "",
    )


def _gallery(result: RunResult) -> str:
    return section(
        "What it finds",
        "A query, then the gallery images nearest to it. ✓ in a green solid frame is right, ✗ in a red "
        "dashed frame is wrong; the number is the cosine similarity. The queries were drawn at random with "
        "the run's seed, not picked.",
        card(retrieval_gallery(result.final, result.test, result.config.seed)),
    )


def _worst(result: RunResult) -> str:
    rows = worst_queries(result.final, result.test)
    if not rows:
        return ""
    return section(
        "What it misses by the most",
        f"The queries whose first right image ranks the lowest among {result.final.gallery_rows.numel()}: "
        "the wrong images nearest to them, then that first right one with its rank. A wrong label shows up "
        "here too.",
        card(rows),
    )


def _map(result: RunResult) -> str:
    picture, note = embedding_map(result.embeddings, result.final, result.test, result.config.seed)
    return section("How the test classes lie", "", card(picture, note=note))
