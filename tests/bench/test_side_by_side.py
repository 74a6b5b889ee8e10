"""Tasks in processes of their own: their outcomes, and what a lost process costs."""

from __future__ import annotations

import os
import time

import pytest

from bench.gpu.side_by_side import Task, side_by_side


def square(number: int) -> int:
    if number == 2:
        raise ValueError("two")
    if number == 3:
        os._exit(7)
    return number * number


@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_outcomes_and_errors(jobs: int) -> None:
    tasks = [Task(square, (number,)) for number in (0, 1, 2, 4, 5)]
    found = {done.number: done for done in side_by_side(tasks, jobs)}
    assert {number: done.result for number, done in found.items()} == {0: 0, 1: 1, 2: None, 3: 16, 4: 25}
    assert [number for number, done in found.items() if done.error] == [2]
    assert found[2].error == "error: ValueError: two"


def test_a_lost_process_costs_its_own_task_alone() -> None:
    tasks = [Task(square, (number,)) for number in (3, 4, 3, 5)]
    found = {done.number: done for done in side_by_side(tasks, 2)}
    assert {number for number, done in found.items() if done.error} == {0, 2}
    assert found[0].error == "its process ended with 7"
    assert (found[1].result, found[3].result) == (16, 25)


@pytest.mark.parametrize("jobs", [0, 2])
def test_nothing_is_begun_after_the_deadline(jobs: int) -> None:
    begun = time.monotonic()
    assert list(side_by_side([Task(square, (4,))] * 3, jobs, begun - 1)) == []
    found = list(side_by_side([Task(time.sleep, (2.5,))] * 4, jobs, time.monotonic() + 2))
    assert len(found) == max(1, jobs)
    assert not any(done.error for done in found)


def test_a_task_that_does_not_end_keeps_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.side_by_side.GRACE", 0.5)
    tasks = [Task(square, (4,)), Task(time.sleep, (600,))]
    found = {done.number: done for done in side_by_side(tasks, 2, time.monotonic() + 7)}
    assert (found[0].result, found[1].error) == (16, "did not end in time")
