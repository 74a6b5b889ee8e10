"""What is shown while a run goes on."""

from __future__ import annotations

import io

from rich.console import Console

from fastdml.training.loop import StepRecord
from fastdml.training.progress import LiveDisplay, PlainDisplay, make_display, sparkline


def record(step, loss=1.0):
    return StepRecord(step, loss, 0.001, 2.0, 0.1, 0.002, 1280.0, 0.1 * step)


def test_the_display_depends_on_the_terminal():
    assert isinstance(make_display(Console(file=io.StringIO())), PlainDisplay)
    assert isinstance(make_display(Console(file=io.StringIO(), force_terminal=True)), LiveDisplay)


def test_plain_lines_come_at_the_first_and_the_last_step_and_not_in_between(capsys):
    display = PlainDisplay(every=1000)
    for step in range(1, 101):
        display.on_step(record(step, loss=2.0 / step), 100)
    display.on_evaluation(100, {1: 0.5, 8: 0.75})
    display.on_note("slow here")
    assert capsys.readouterr().out.splitlines() == [
        "step   1/100  loss 2.0000  1280 images/s  0:09 left",
        "step 100/100  loss 0.0200  1280 images/s  0:00 left",
        "step 100  R@1 50.0 %  R@8 75.0 %",
        "note: slow here",
    ]


def test_the_live_display_shows_the_numbers_and_gives_the_terminal_back():
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=100))
    display.on_evaluation(0, {1: 0.125})
    for step in range(1, 6):
        display.on_step(record(step, loss=1.0 / step), 10)
    display.close()
    display.close()
    output = stream.getvalue()
    assert "5/10" in output
    assert "0.2000" in output
    assert "12.5 %" in output
    assert output.count("\x1b[?25h") == output.count("\x1b[?25l") > 0  # the cursor is shown again


def test_sparkline():
    assert sparkline([], 5) == ""
    assert sparkline([3.0], 5) == "▁"
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0, 9.0, 9.0], 2) == "▁█"
    assert len(sparkline([float(i) for i in range(1000)], 48)) == 48
