"""The curves of training: loss, Recall@1, gradient norm and learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastdml.training.report.charts import Axis, Series, line_chart, linear_axis, log_axis, smooth, thin
from fastdml.training.report.elements import card, side_by_side
from fastdml.training.run_result import RunResult

_SMOOTHING = 15  # steps, or a fortieth of them where that is more
_WIDE = 30  # a quantity that spans more than this factor is drawn on a logarithmic axis

Log = Sequence[Mapping[str, Any]]


def curves(result: RunResult, log: Log) -> str:
    """Loss, Recall@1, and where steps were logged gradient norm and learning rate over the steps."""
    steps = max(result.outcome.steps_taken, 1)
    recall = card(_recall_chart(result, steps), "Recall@1", _RECALL_NOTE)
    if not log:
        return side_by_side(recall)
    window = smoothing_window(len(log))
    note = (
        f"Pale: every step. Bold: mean of the last {window} steps. It need not fall to 0: what is mined is "
        "what is hard, and margins ask for more than there is to have."
    )
    loss = step_chart("Training loss", "loss", log, "mean over the batch", lambda value: f"{value:.3f}")
    norm = step_chart("Norm of the gradient of the network", "gradient_norm", log, "Euclidean norm", _short)
    return side_by_side(
        card(loss, "Loss", note),
        recall,
        card(norm, "Gradient norm"),
        card(_rate_chart(log), "Learning rate"),
    )


_RECALL_NOTE = (
    "Measured on the test classes while training, for this curve only: nothing was chosen by it, and the "
    "result is that of the last step."
)


def step_chart(name: str, key: str, log: Log, title: str, write: Callable[[float], str]) -> str:
    """One quantity of the log over the steps: every step pale, its running mean bold.

    Args:
        name: what is drawn.
        key: of the quantity in the log; records without a value are left out.
        log: at least one record.
        title: of the vertical axis.
        write: its values.
    """
    points = _points(log, key)
    values = [value for _, value in points]
    means = smooth(values, smoothing_window(len(log)))
    mean_points = [(step, mean) for (step, _), mean in zip(points, means, strict=True)]
    lowest, highest = min(values, default=0.0), max(values, default=0.0)
    if lowest > 0 and highest > _WIDE * lowest:
        axis = log_axis(title, values, _short)
    else:
        axis = linear_axis(title, min(0.0, lowest), max(0.0, highest), _short)
    series = [
        Series("each step", thin(points), faint=True),
        Series(key.split("_")[0], thin(mean_points)),
    ]
    return line_chart(f"{name} over the steps", _steps(log), axis, series, write)


def smoothing_window(steps: int) -> int:
    """Steps whose mean is drawn in bold."""
    return max(_SMOOTHING, steps // 40)


def _rate_chart(log: Log) -> str:
    points = _points(log, "learning_rate")
    axis = linear_axis("of the network", 0, max(rate for _, rate in points), _short)
    return line_chart(
        "Learning rate over the steps", _steps(log), axis, [Series("rate", thin(points))], _short
    )


def _points(log: Log, key: str) -> list[tuple[float, float]]:
    return [(record["step"], record[key]) for record in log if record[key] is not None]


def _steps(log: Log) -> Axis:
    return linear_axis("step", 0, max(record["step"] for record in log))


def _recall_chart(result: RunResult, steps: int) -> str:
    lines = [Series("network", result.curve, marks=True)]
    highest = max(value for _, value in result.curve)
    if result.raw is not None:
        raw = result.rows[result.raw][1]
        lines.insert(0, Series(result.raw.removeprefix("raw "), [(0, raw), (steps, raw)], colour=2))
        highest = max(highest, raw)
    return line_chart(
        "Recall@1 on the test classes over the steps",
        linear_axis("step", 0, steps),
        linear_axis("share of the queries", 0, highest, lambda v: f"{100 * v:.0f} %"),
        lines,
        lambda value: f"{100 * value:.1f} %",
    )


def _short(value: float) -> str:
    return f"{value:.3g}"
