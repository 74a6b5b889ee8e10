"""The sections of the report that hold numbers: headline, figures of a step, recall, domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

import torch

from fastdml.training.report.elements import Bar, bar_list, card
from fastdml.training.report.units import write_bytes, write_seconds
from fastdml.training.run_result import RunResult


def headline(result: RunResult, name: str) -> str:
    """The result in one number and two sentences."""
    recall = {row: values[1] for row, values in result.rows.items()}
    status = {"steps": "good", "time": "plain"}.get(result.outcome.stopped_by, "bad")
    return (
        f'<header><div class="eyebrow"><b>fastdml</b><span>{escape(name)}</span>'
        f'<span class="badge {status}">{escape(result.status)}</span></div>'
        f'<div class="headline"><div class="number">{100 * recall["trained"]:.1f}<small>%</small></div>'
        f"<div><h1>of the queries find an image of their own class first, among "
        f"{result.dataset.test_classes}.</h1>"
        f"<p>This is Recall@1. {_before(result, recall)} Training took "
        f"{write_span(result.outcome.seconds)} on {escape(_machine(result))}.</p></div></div></header>"
    )


def _before(result: RunResult, recall: Mapping[str, float]) -> str:
    untrained = f"{100 * recall['untrained']:.1f} %"
    if result.raw is None:
        return f"With the untrained network {untrained} would."
    raw = f"{100 * recall[result.raw]:.1f} %"
    return f"By their {result.raw} {raw} would, with the untrained network {untrained}."


def stats(result: RunResult, log: Sequence[Mapping[str, Any]]) -> str:
    """A few small cards: steps, time, and where steps were logged speed and memory."""
    processes = f" over {result.world_size} processes" if result.world_size > 1 else ""
    cards = [
        (
            "Steps",
            f"{result.outcome.steps_taken}",
            f"{result.config.batch} images each{processes}, {_planned(result)}",
        ),
        ("Whole run", write_span(result.seconds.get("total", 0.0)), "from loading the data to this page"),
    ]
    if log:
        step, loss, speed = (
            median(record[key] for record in log)
            for key in ("step_seconds", "loss_seconds", "images_per_second")
        )
        share = f"median, forward and backward: {100 * loss / step:.1f} % of the step"
        cards.append(("Step", write_seconds(step), f"median; {speed:.0f} images a second"))
        cards.append(("Loss in a step", write_seconds(loss), share))
        peak = max(record["memory_bytes"] for record in log)
        if peak:
            of = "of this process" if result.environment.device == "cpu" else "of the device"
            cards.append(("Memory", write_bytes(peak), f"peak {of} while training"))
    body = "".join(
        f'<div class="card"><dl><dt>{title}</dt><dd>{value}</dd><dd>{about}</dd></dl></div>'
        for title, value, about in cards
    )
    return f'<div class="stats">{body}</div>'


def _planned(result: RunResult) -> str:
    asked = result.config.steps
    if result.outcome.steps_taken == asked:
        return "all that were asked for"
    reason = ", to keep the time limit" if result.outcome.stopped_by == "time" else ""
    return f"of {asked} asked for{reason}"


def recall_table(result: RunResult) -> str:
    """Recall@K of raw pixels where they were compared, untrained and trained."""
    ks = list(result.rows["trained"])
    head = "".join(f"<th>Recall@{k}</th>" for k in ks)
    rows = []
    for name, recall in result.rows.items():
        shares = [f"{100 * recall[k]:.1f}" for k in ks]
        cells = "".join(
            f'<td><span class="bar"><i style="width:{share}%"></i></span>{share} %</td>' for share in shares
        )
        rows.append(f"<tr{' class=best' if name == 'trained' else ''}><td>{name}</td>{cells}</tr>")
    found = result.final
    note = (
        f"{found.result.queries} queries against {found.gallery_rows.numel()} gallery images; cosine "
        "similarity; an image never finds itself, and ties count against the query."
    )
    if result.test.cameras is not None:
        note += " What a query's own camera saw of its class is left out."
    if found.result.queries_without_positive:
        note += (
            f" {found.result.queries_without_positive} queries have no right answer there and are left out."
        )
    note += (
        f" After training, mAP is {100 * found.result.mean_average_precision:.1f} %, MAP@R "
        f"{100 * found.result.map_at_r:.1f} %, R-precision {100 * found.result.r_precision:.1f} %."
    )
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return card(f'<div class="scroll">{table}</div>', note=note)


def domain_bars(result: RunResult) -> str:
    """Recall@1 of the queries of each domain, those absent from the gallery last; else empty."""
    split, found = result.test, result.final
    if split.domains is None:
        return ""
    ranks, domains = found.result.first_hit_rank.cpu(), split.domains[found.query_rows]
    in_gallery = set(split.domains[found.gallery_rows].tolist())
    bars = []
    for domain in torch.unique(domains).tolist():
        scored = ranks[(domains == domain) & (ranks > 0)]
        if scored.numel():
            bars.append((domain not in in_gallery, -float((scored == 1).double().mean()), domain))
    body = bar_list(
        Bar(split.domain_names[domain], -value, f"{-100 * value:.1f} %", absent)
        for absent, value, domain in sorted(bars)
    )
    key = ""
    if any(absent for absent, *_ in bars):
        key = (
            '<span class="key"></span>also in the gallery and in training &ensp; '
            '<span class="key other"></span>only as queries: never trained on, nothing like it in the gallery'
        )
    return card(body, note=key)


def _machine(result: RunResult) -> str:
    environment = result.environment
    if environment.device != "cpu":
        return environment.device
    return f"{environment.threads} CPU thread{'s' if environment.threads != 1 else ''}"


def write_span(seconds: float) -> str:
    """A length of time for a sentence."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes >= 2 else f"{seconds:.0f} s"
