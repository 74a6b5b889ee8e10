"""What is shown while a run goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fastdml.training.progress import LiveDisplay, PlainDisplay, make_display, sparkline
from fastdml.training.records import StepRecord


def record(step, loss=1.0, **changes):
    values = {
        "learning_rate": 0.001,
        "gradient_norm": 2.5,
        "step_seconds": 0.1,
        "loss_seconds": 0.002,
        "data_seconds": 0.003,
        "network_seconds": 0.09,
        "update_seconds": 0.005,
        "images": 128,
        "images_per_second": 1280.0,
        "memory_bytes": 1_540_000_000,
        "seconds": 0.1 * step,
    }
    return StepRecord(step=step, loss=loss, **{**values, **changes})


def terminal():
    stream = io.StringIO()
    return stream, Console(file=stream, force_terminal=True, width=100)


def last_drawn(stream):
    """What the terminal shows after the last redraw, without colours."""
    return stream.getvalue().split("╭")[-1].replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_the_display_depends_on_the_terminal():
    assert isinstance(make_display(Console(file=io.StringIO())), PlainDisplay)
    assert isinstance(make_display(Console(file=io.StringIO(), force_terminal=True)), LiveDisplay)


def test_plain_lines_come_at_the_first_and_the_last_step_and_not_in_between(capsys):
    display = PlainDisplay(every=1000)
    for step in range(1, 101):
        display.on_step(record(step, loss=2.0 / step), 100)
        display.on_chunk(3, 64)
        if step == 50:
            display.on_evaluation(50, {1: 0.25})
    display.on_evaluation(100, {1: 0.5, 8: 0.75})
    display.on_note("slow here")
    numbers = "gradient 2.5  1280 images/s  loss takes 2.0 ms  1.5 GB"
    assert capsys.readouterr().out.splitlines() == [
        f"step   1/100  loss 2.0000  {numbers}  0:09 left",
        "step 50  R@1 25.0 %",
        f"step 100/100  loss 0.0200  {numbers}  R@1 25.0 %  0:00 left",
        "step 100  R@1 50.0 %  R@8 75.0 %",
        "note: slow here",
    ]


def test_plain_lines_tell_how_far_a_long_step_is(capsys):
    display = PlainDisplay(every=0)
    display.on_chunk(1, 64)
    display.on_chunk(64, 64)  # the step's own line follows
    display.on_step(record(7, memory_bytes=0, loss_seconds=1.26), 9)
    display.on_chunk(2, 64)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "step 1: 1 of 64 chunks"
    assert "loss takes 1.3 s  0:00 left" in second
    assert third == "step 8: 2 of 64 chunks"


@pytest.mark.parametrize(("steps", "left"), [(31, "0:10"), (211, "1:40"), (200_011, "27:46:40")])
def test_time_left_of_a_resumed_run_goes_by_the_steps_made_since(capsys, steps, left):
    display = PlainDisplay(every=0)
    for step in (10, 11):  # after an hour; 0.5 s a step since
        display.on_step(record(step, seconds=3600 + 0.5 * step, step_seconds=0.5), steps)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" {left} left")


def test_the_live_display_shows_the_numbers_and_gives_the_terminal_back():
    stream, console = terminal()
    display = LiveDisplay(console)
    display.on_evaluation(0, {1: 0.125})
    for step in range(1, 6):
        display.on_step(record(step, loss=1.0 / step), 10)
    display.close()
    display.close()
    shown = last_drawn(stream)
    for text in ("5/10", "0.2000", "12.5 %", "2.5", "2.0 ms", "3.0 ms", "1.5 GB", "1280", "0:00"):
        assert text in shown
    output = stream.getvalue()
    assert output.count("\x1b[?25h") == output.count("\x1b[?25l") > 0  # the cursor is shown again


def test_the_live_display_shows_chunks_while_a_step_is_under_way():
    stream, console = terminal()
    display = LiveDisplay(console)
    display.on_chunk(12, 64)
    display.close()
    assert "12 of 64 chunks" in last_drawn(stream)

    stream, console = terminal()
    display = LiveDisplay(console)
    display.on_chunk(12, 64)
    display.on_step(record(1), 10)
    display.close()
    assert "chunks" not in last_drawn(stream)


def test_sparkline():
    assert sparkline([], 5) == ""
    assert sparkline([3.0], 5) == "▁"
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0, 9.0, 9.0], 2) == "▁█"
    assert len(sparkline([float(i) for i in range(1000)], 48)) == 48
