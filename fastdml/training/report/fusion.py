"""The section on what fusing buys: two charts and the table behind them."""

from __future__ import annotations

from fastdml.training.fusion_panel import FusionPanel, FusionRow
from fastdml.training.report.charts import Series, line_chart, log_axis, value_axis
from fastdml.training.report.elements import card, side_by_side
from fastdml.training.report.units import write_bytes, write_seconds


def fusion_section(panel: FusionPanel) -> str:
    """Charts and table of a panel; a sentence where it has no rows."""
    if not panel.rows:
        cut_short = "It was cut short before the first batch size."
        return card(f"<p>{panel.how if panel.backend == 'reference' else cut_short}</p>")
    charts = [card(_time_chart(panel), "Time of a step")]
    memory = _memory_chart(panel)
    if memory:
        charts.append(card(memory, "Peak memory of a step"))
    return side_by_side(*charts) + card(f'<div class="scroll">{_table(panel)}</div>', note=_how(panel))


def fusion_headline(panel: FusionPanel) -> str:
    """One sentence about the largest batch that was measured; empty without rows."""
    if not panel.rows:
        return ""
    row = panel.rows[-1]
    ratio = row.dense_seconds / row.fused_seconds
    text = f"At a batch of {row.batch}, the fused loss takes {write_seconds(row.fused_seconds)}"
    if ratio >= 1:
        text += f", {ratio:.1f} times faster than the dense form"
    else:
        text += f", {1 / ratio:.1f} times slower than the dense form"
    if row.fused_bytes is not None and row.dense_bytes is not None:
        text += f", in {write_bytes(row.fused_bytes)} instead of {write_bytes(row.dense_bytes)}"
    return text + "."


def _time_chart(panel: FusionPanel) -> str:
    rows = panel.rows
    values = [value for row in rows for value in (row.fused_seconds, row.dense_seconds)]
    return line_chart(
        "Time of a loss step over the batch size",
        value_axis("batch size", [row.batch for row in rows], lambda value: f"{value:g}"),
        log_axis("forward and backward", values, write_seconds),
        [
            Series("dense", [(row.batch, row.dense_seconds) for row in rows], colour=2, marks=True),
            Series("fastdml", [(row.batch, row.fused_seconds) for row in rows], colour=1, marks=True),
        ],
        write_seconds,
    )


def _memory_chart(panel: FusionPanel) -> str:
    lines = [
        Series("dense", _known([(row.batch, row.dense_bytes) for row in panel.rows]), colour=2, marks=True),
        Series("fastdml", _known([(row.batch, row.fused_bytes) for row in panel.rows]), colour=1, marks=True),
    ]
    values = [y for line in lines for _, y in line.points]
    if not values:
        return ""
    return line_chart(
        "Peak memory of a loss step over the batch size",
        value_axis("batch size", [row.batch for row in panel.rows], lambda value: f"{value:g}"),
        log_axis("beyond what was held before", values, write_bytes),
        lines,
        write_bytes,
    )


def _known(points: list[tuple[int, int | None]]) -> list[tuple[float, float]]:
    """Measured points; a logarithmic axis has no zero, so less than a page of 4 KiB is drawn as one page."""
    return [(x, max(y, 4096)) for x, y in points if y is not None]


def _table(panel: FusionPanel) -> str:
    head = "".join(
        f"<th>{title}</th>"
        for title in ("batch", "fastdml", "dense", "faster by", "fastdml memory", "dense memory", "less by")
    )
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_table_row, panel.rows))}</tbody></table>"
    )


def _table_row(row: FusionRow) -> str:
    cells = [
        f"{row.batch}",
        write_seconds(row.fused_seconds),
        write_seconds(row.dense_seconds),
        _times(row.dense_seconds, row.fused_seconds),
        _bytes_or_dash(row.fused_bytes),
        _bytes_or_dash(row.dense_bytes),
        _times(row.dense_bytes, row.fused_bytes),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _how(panel: FusionPanel) -> str:
    fewest, most = min(row.rounds for row in panel.rows), max(row.rounds for row in panel.rows)
    rounds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    classes = "" if panel.classes is None else f"centres of {panel.classes} classes, "
    return (
        f"Measured at the end of this run in {panel.seconds:.0f} s: forward and backward of the loss, "
        f"{panel.dim} dimensions, {classes}{panel.samples_per_class} samples a class, float32, backend "
        f"{panel.backend} against the dense reference (plain PyTorch). Times are medians of {rounds} rounds "
        f"in which the two take turns. {panel.how}"
    )


def _times(large: float | None, small: float | None) -> str:
    if large is None or small is None or min(large, small) <= 0:
        return "&ndash;"
    return f"{large / small:.1f}&nbsp;&times;"


def _bytes_or_dash(value: int | None) -> str:
    return "&ndash;" if value is None else write_bytes(value)
