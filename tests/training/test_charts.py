"""Charts: round ticks, values where the axis says they are, labels apart."""

from __future__ import annotations

import re

import pytest

from fastdml.training.report.charts import Series, line_chart, linear_axis, log_axis, smooth, thin, value_axis


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1.34, [0, 0.5, 1.0, 1.5]),
        (0, 400, [0, 100, 200, 300, 400]),
        (0, 7, [0, 2, 4, 6, 8]),
        (0, 0.784, [0, 0.2, 0.4, 0.6, 0.8]),
        (0, 0, [0, 0.2]),
    ],
)
def test_linear_ticks_are_round_and_enclose_the_values(low, high, ticks):
    axis = linear_axis("y", low, high)
    assert list(axis.ticks) == pytest.approx(ticks)
    assert axis.low <= low <= high <= axis.high


def test_log_ticks_are_powers_that_enclose_the_values():
    axis = log_axis("t", [0.0004, 0.9], str)
    assert list(axis.ticks) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert axis.share(1e-2) == pytest.approx(0.5)
    assert log_axis("t", [10.0], str).ticks == [10.0, 100.0]


def points_of(svg):
    return [
        [tuple(map(float, pair.split(","))) for pair in points.split()]
        for points in re.findall(r'points="([^"]*)"', svg)
    ]


def test_points_lie_where_the_axes_say():
    x, y = value_axis("n", [128, 512, 2048], str), log_axis("t", [1, 100], str)
    svg = line_chart("c", x, y, [Series("a", [(128, 1), (512, 10), (2048, 100)], marks=True)], str)
    ((left, bottom), (middle, centre), (right, top)) = points_of(svg)[0]
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert centre == pytest.approx((top + bottom) / 2, abs=0.1)
    assert bottom > top
    assert svg.count("<circle") == 3
    assert "a: 10 at 512" in svg


def test_lines_that_end_together_have_labels_apart_and_inside():
    x, y = linear_axis("x", 0, 10), linear_axis("y", 0, 1)
    lines = [Series("one", [(0, 0), (10, 0.50)]), Series("two", [(0, 0), (10, 0.505)], colour=2)]
    svg = line_chart("c", x, y, lines, str)
    places = [float(place) for place in re.findall(r'class="label[^>]* y="([\d.]+)"', svg)]
    assert len(places) == 2
    assert abs(places[0] - places[1]) >= 15
    assert all(0 < place < 330 for place in places)


def test_text_is_escaped():
    svg = line_chart("a<b", linear_axis("<x>", 0, 1), linear_axis("y", 0, 1), [Series("&", [(0, 0)])], str)
    assert "<x>" not in svg
    assert "a&lt;b" in svg
    assert "&amp;" in svg


def test_smooth_is_the_mean_of_the_last_values():
    assert smooth([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
    assert smooth([], 3) == []


def test_thinned_lines_keep_their_ends_and_extremes():
    points = [(i, float((i * 7919) % 1000)) for i in range(10_000)]
    points[4321] = (4321, 5000.0)
    points[8765] = (8765, -5000.0)
    thinned = thin(points, most=100)
    assert len(thinned) <= 102
    assert thinned == sorted(set(thinned) & set(points))
    assert {points[0], points[-1], points[4321], points[8765]} <= set(thinned)
    assert thin(points[:100], most=100) == points[:100]
