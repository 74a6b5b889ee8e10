"""The sections of the report that hold numbers: headline, curves, recall, typefaces, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

import torch

from fastdml.training.experiment import RunResult
from fastdml.training.report.charts import Series, line_chart, linear_axis, smooth
from fastdml.training.report.fusion import write_seconds

_SMOOTHING = 15  # steps


def headline(result: RunResult, name: str) -> str:
    """The result in one number and two sentences."""
    recall = {row: values[1] for row, values in result.rows.items()}
    status = "good" if result.status == "complete" else "bad"
    classes = result.test.num_classes
    return (
        f'<header><div class="eyebrow"><b>fastdml</b><span>{escape(name)}</span>'
        f'<span class="badge {status}">{escape(result.status)}</span></div>'
        f'<div class="headline"><div class="number">{100 * recall["trained"]:.1f}<small>%</small></div>'
        f"<div><h1>of the queries find an image of their own class first, among {classes} classes "
        "that training never saw.</h1>"
        f"<p>This is Recall@1. By their raw pixels {100 * recall['raw pixels']:.1f} % would, with the untrained "
        f"network {100 * recall['untrained']:.1f} %. Training took {write_span(result.outcome.seconds)} on "
        f"{escape(_machine(result))}.</p></div></div></header>"
    )


def stats(result: RunResult, log: Sequence[Mapping[str, Any]]) -> str:
    """Four small cards."""
    config = result.config
    cards = [
        ("Steps", f"{result.outcome.steps_taken}", f"{config.batch} images each, {_planned(result)}"),
        ("Whole run", write_span(result.seconds.get("total", 0.0)), "from the first import of data to this page"),
    ]
    if log:
        step = median(record["step_seconds"] for record in log)
        loss = median(record["loss_seconds"] for record in log)
        cards.append(("Step", write_seconds(step), f"median; {config.batch / step:.0f} images a second"))
        cards.append(
            ("Loss in a step", write_seconds(loss), f"median, forward and backward: {100 * loss / step:.1f} % of it")
        )
    body = "".join(
        f'<div class="card"><dl><dt>{title}</dt><dd>{value}</dd><dd>{about}</dd></dl></div>'
        for title, value, about in cards
    )
    return f'<div class="stats">{body}</div>'


def _planned(result: RunResult) -> str:
    outcome, asked = result.outcome, result.config.steps
    if outcome.steps_taken == asked:
        return "all that were asked for"
    if outcome.steps_planned < asked:
        return f"planned down from {asked} to keep the time limit"
    return f"of {asked} asked for"


def curves(result: RunResult, log: Sequence[Mapping[str, Any]]) -> str:
    """Loss and Recall@1 over the steps."""
    steps = max(result.outcome.steps_taken, 1)
    x = linear_axis("step", 0, steps)
    cards = []
    losses = [record["loss"] for record in log]
    if losses:
        points = [record["step"] for record in log]
        smoothed = smooth(losses, _SMOOTHING)
        y = linear_axis("loss", 0, max(losses))
        chart = line_chart(
            "Training loss over the steps",
            x,
            y,
            [
                Series("each step", list(zip(points, losses, strict=True)), faint=True),
                Series("loss", list(zip(points, smoothed, strict=True))),
            ],
            lambda value: f"{value:.3f}",
        )
        cards.append(
            f'<div class="card"><h3>Loss</h3>{chart}<p class="small">Pale: every step. Bold: mean of the last '
            f"{_SMOOTHING} steps. Mining keeps only the hard pairs of each batch, so the loss need not fall to 0.</p></div>"
        )
    pixels = result.rows["raw pixels"][1]
    chart = line_chart(
        "Recall@1 on unseen classes over the steps",
        x,
        linear_axis("Recall@1", 0, max(*(value for _, value in result.curve), pixels), lambda v: f"{100 * v:.0f} %"),
        [
            Series("pixels", [(0, pixels), (steps, pixels)], colour=2),
            Series("network", result.curve, marks=True),
        ],
        lambda value: f"{100 * value:.1f} %",
    )
    cards.append(
        f'<div class="card"><h3>Recall@1</h3>{chart}<p class="small">Measured on the test classes while training, '
        "for this curve only: nothing was chosen by it, and the result is that of the last step.</p></div>"
    )
    return f'<div class="pair">{"".join(cards)}</div>'


def recall_table(result: RunResult) -> str:
    """Recall@1, 2, 4, 8 of raw pixels, untrained and trained."""
    ks = list(result.rows["trained"])
    head = "".join(f"<th>Recall@{k}</th>" for k in ks)
    rows = []
    for name, recall in result.rows.items():
        cells = "".join(
            f'<td><span class="bar"><i style="width:{100 * recall[k]:.1f}%"></i></span>{100 * recall[k]:.1f} %</td>'
            for k in ks
        )
        rows.append(f'<tr{" class=best" if name == "trained" else ""}><td>{name}</td>{cells}</tr>')
    left_out = result.final.result.queries_without_positive
    note = f" {left_out} queries have no right answer in the gallery and are left out." if left_out else ""
    return (
        f'<div class="card"><div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="small">{result.final.result.queries} queries '
        f"against {result.final.gallery_rows.numel()} gallery images; cosine similarity; an image never finds "
        f"itself, and ties count against the query.{note}</p></div>"
    )


def domain_bars(result: RunResult) -> str:
    """Recall@1 of the queries of each domain (typeface), those absent from the gallery last; else empty."""
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
    rows = "".join(
        f"<span>{escape(split.domain_names[domain])}</span>"
        f'<span class="bar{" other" if absent else ""}"><i style="width:{-100 * value:.1f}%"></i></span>'
        f"<span>{-100 * value:.1f} %</span>"
        for absent, value, domain in sorted(bars)
    )
    key = ""
    if any(absent for absent, *_ in bars):
        key = (
            '<p class="small"><span class="key"></span>also in the gallery and in training &ensp; '
            '<span class="key other"></span>only as queries: never trained on, nothing like it in the gallery</p>'
        )
    return f'<div class="card"><div class="bars">{rows}</div>{key}</div>'


def facts(result: RunResult, command: str) -> str:
    """Settings, environment and where the time went."""
    environment = result.environment
    settings = [(name.replace("_", " "), _setting(value)) for name, value in result.config.to_dict().items()]
    machine = [
        ("fastdml", environment.fastdml),
        ("backend of the loss", f"{environment.backend} ({environment.backend_reason})"),
        ("torch", environment.torch),
        ("Python", environment.python),
        ("system", environment.system),
        ("processor", environment.processor),
        ("cores, threads used", f"{environment.cores}, {environment.threads}"),
        ("device", environment.device),
        ("network", f"{result.parameters:,} parameters".replace(",", " ")),
    ]
    times = [(name, f"{value:.1f} s") for name, value in result.seconds.items()]
    return (
        '<div class="pair">'
        f'<div class="card"><h3>Settings</h3>{_fact_table(settings)}</div>'
        f'<div><div class="card"><h3>Machine</h3>{_fact_table(machine)}</div>'
        f'<div class="card" style="margin-top:20px"><h3>Time</h3>{_fact_table(times)}</div></div></div>'
        f'<div class="card"><p>The same again: <code>{escape(command)}</code></p></div>'
    )


def _fact_table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def _setting(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _machine(result: RunResult) -> str:
    environment = result.environment
    if environment.device != "cpu":
        return environment.device
    return f"{environment.threads} CPU thread{'s' if environment.threads != 1 else ''}"


def write_span(seconds: float) -> str:
    """A length of time for a sentence."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
