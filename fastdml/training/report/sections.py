"""The sections of the report that hold numbers: headline, curves, recall, typefaces, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

import torch

from fastdml.training.experiment import RunResult
from fastdml.training.report.charts import Series, line_chart, linear_axis, smooth
from fastdml.training.report.elements import card, side_by_side
from fastdml.training.report.fusion import write_seconds

_SMOOTHING = 15  # steps


def headline(result: RunResult, name: str) -> str:
    """The result in one number and two sentences."""
    recall = {row: values[1] for row, values in result.rows.items()}
    status = {"steps": "good", "time": "plain"}.get(result.outcome.stopped_by, "bad")
    return (
        f'<header><div class="eyebrow"><b>fastdml</b><span>{escape(name)}</span>'
        f'<span class="badge {status}">{escape(result.status)}</span></div>'
        f'<div class="headline"><div class="number">{100 * recall["trained"]:.1f}<small>%</small></div>'
        f"<div><h1>of the queries find an image of their own class first, among "
        f"{result.test.num_classes} classes that training never saw.</h1>"
        f"<p>This is Recall@1. By their raw pixels {100 * recall['raw pixels']:.1f} % would, with the "
        f"untrained network {100 * recall['untrained']:.1f} %. Training took "
        f"{write_span(result.outcome.seconds)} on {escape(_machine(result))}.</p></div></div></header>"
    )


def stats(result: RunResult, log: Sequence[Mapping[str, Any]]) -> str:
    """Four small cards."""
    config = result.config
    cards = [
        ("Steps", f"{result.outcome.steps_taken}", f"{config.batch} images each, {_planned(result)}"),
        (
            "Whole run",
            write_span(result.seconds.get("total", 0.0)),
            "from loading the data to this page",
        ),
    ]
    if log:
        step = median(record["step_seconds"] for record in log)
        loss = median(record["loss_seconds"] for record in log)
        cards.append(("Step", write_seconds(step), f"median; {config.batch / step:.0f} images a second"))
        cards.append(
            (
                "Loss in a step",
                write_seconds(loss),
                f"median, forward and backward: {100 * loss / step:.1f} % of the step",
            )
        )
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


def curves(result: RunResult, log: Sequence[Mapping[str, Any]]) -> str:
    """Loss and Recall@1 over the steps."""
    steps = max(result.outcome.steps_taken, 1)
    x = linear_axis("step", 0, steps)
    cards = []
    losses = [record["loss"] for record in log]
    if losses:
        points = [record["step"] for record in log]
        smoothed = smooth(losses, _SMOOTHING)
        y = linear_axis("mean over the batch", 0, max(losses))
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
        note = (
            f"Pale: every step. Bold: mean of the last {_SMOOTHING} steps. It need not fall to 0: what is "
            "mined is what is hard, and margins ask for more than there is to have."
        )
        cards.append(card(chart, "Loss", note))
    pixels = result.rows["raw pixels"][1]
    chart = line_chart(
        "Recall@1 on unseen classes over the steps",
        x,
        linear_axis(
            "share of the queries",
            0,
            max(*(value for _, value in result.curve), pixels),
            lambda v: f"{100 * v:.0f} %",
        ),
        [
            Series("pixels", [(0, pixels), (steps, pixels)], colour=2),
            Series("network", result.curve, marks=True),
        ],
        lambda value: f"{100 * value:.1f} %",
    )
    note = (
        "Measured on the test classes while training, for this curve only: nothing was chosen by it, and the "
        "result is that of the last step."
    )
    return side_by_side(*cards, card(chart, "Recall@1", note))


def recall_table(result: RunResult) -> str:
    """Recall@1, 2, 4, 8 of raw pixels, untrained and trained."""
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
    if found.result.queries_without_positive:
        note += (
            f" {found.result.queries_without_positive} queries have no right answer there and are left out."
        )
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return card(f'<div class="scroll">{table}</div>', note=note)


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
        f'<span class="share">{-100 * value:.1f} %</span>'
        for absent, value, domain in sorted(bars)
    )
    key = ""
    if any(absent for absent, *_ in bars):
        key = (
            '<span class="key"></span>also in the gallery and in training &ensp; '
            '<span class="key other"></span>only as queries: never trained on, nothing like it in the gallery'
        )
    return card(f'<div class="bars">{rows}</div>', note=key)


def facts(result: RunResult, command: str) -> str:
    """Settings, environment and where the time went."""
    environment = result.environment
    settings = [
        (name.replace("_", " "), _setting(name, value)) for name, value in result.config.to_dict().items()
    ]
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
    return side_by_side(
        card(_fact_table(settings), "Settings"),
        f'<div class="stack">{card(_fact_table(machine), "Machine")}{card(_fact_table(times), "Time")}</div>',
    ) + card(f"<p>{_again(result)} <code>{escape(command)}</code></p>")


def _again(result: RunResult) -> str:
    if result.outcome.stopped_by == "steps" and not result.outcome.replanned:
        return "The same again, to the last digit on the same machine and versions:"
    return "The same settings again (this run was ended or planned by the clock or by hand):"


def _fact_table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def _setting(name: str, value: Any) -> str:
    if value is None:
        return {"seconds": "no limit", "backend": "the best that can run"}.get(name, "none")
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
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
