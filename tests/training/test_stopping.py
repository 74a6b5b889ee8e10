"""The ways in which a run ends before its steps: signals, the clock, numbers that are not finite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from fastdml.training import NonFiniteLossError, catalogue
from fastdml.training.catalogue import LossEntry
from fastdml.training.checkpoint import read_tensors
from fastdml.training.run import read_lines
from fastdml.training.schedule import RateSchedule, StepBudget
from fastdml.training.stopping import StopRequest

FILES = {
    "config.json",
    "evaluations.jsonl",
    "log.jsonl",
    "metrics.json",
    "report.html",
    "weights.safetensors",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_all_files(run, recorder, number):
    def interrupt(record):
        if record.step == 3:
            os.kill(os.getpid(), number)

    recorder.after_step = interrupt
    before = signal.getsignal(number)
    result, path = run(steps=500, panel_seconds=5.0)
    assert signal.getsignal(number) is before
    assert result.outcome.stopped_by == number.name
    assert result.panel is None
    assert {file.name for file in path.iterdir()} == FILES | {"checkpoints"}
    assert [line["step"] for line in read_lines(path / "log.jsonl")] == [1, 2, 3]
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["status"] == f"interrupted ({number.name})"
    assert metrics["steps"] == 3
    assert f"interrupted ({number.name})" in (path / "report.html").read_text()


def test_ctrl_c_on_the_command_line(tmp_path):
    """The real command in a process of its own, interrupted while it trains on the built-in data."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fastdml", "train", "--steps", "100000", "--out", str(out)]
    command += ["--batch", "16", "--network-width", "4", "--evaluations", "0", "--backend", "reference"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        log = out / "log.jsonl"
        deadline = time.monotonic() + 90
        while not (log.exists() and log.read_text().count("\n") >= 3):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors
    assert str(out / "report.html") in output
    assert {file.name for file in out.iterdir()} == FILES | {"checkpoints"}
    steps = [line["step"] for line in read_lines(log)]
    assert steps == list(range(1, len(steps) + 1))
    assert json.loads((out / "metrics.json").read_text())["steps"] == len(steps)


def test_a_second_signal_acts_as_usual():
    # A shell starts its background jobs with SIGINT ignored; what is usual here is Python's own handler.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal_name == "SIGINT"
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_the_clock_ends_a_run(run):
    result, path = run(steps=100_000, seconds=3.0, evaluations=0)
    assert result.outcome.stopped_by == "time"
    assert 2.0 < result.outcome.seconds < 10.0
    lines = read_lines(path / "log.jsonl")
    assert len(lines) == result.outcome.steps_taken < 100_000
    assert json.loads((path / "metrics.json").read_text())["status"] == "stopped by time"
    # The schedule was fitted to the time: it ends low instead of being cut off high.
    assert lines[-1]["learning_rate"] < 0.5 * max(line["learning_rate"] for line in lines)


class _BadLoss(torch.nn.Module):
    """Plain for four steps, then as bad as told."""

    def __init__(self, value=float("nan"), gradient=0.0):
        super().__init__()
        self.calls, self.value, self.gradient = 0, value, gradient

    def forward(self, embeddings, labels):
        self.calls += 1
        if self.calls < 5:
            return embeddings.square().mean()
        embeddings.register_hook(lambda grad: grad + self.gradient)
        return embeddings.square().mean() * 0 + self.value


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"value": float("nan")}, "step 5 gave loss nan"),
        ({"value": float("inf")}, "step 5 gave loss inf"),
        ({"value": 1.0, "gradient": float("nan")}, "step 5 gave a non-finite gradient"),
    ],
)
def test_a_non_finite_loss_stops_the_run_and_saves_its_batch(
    run, monkeypatch, tmp_path, recorder, bad, message
):
    monkeypatch.setitem(catalogue.LOSSES, "bad", LossEntry(lambda *sizes: _BadLoss(**bad), "for tests"))
    with pytest.raises(NonFiniteLossError, match=message) as caught:
        run(loss="bad", steps=20, evaluations=0)
    path = tmp_path / "run"
    assert str(path / "failed_batch.safetensors") in str(caught.value)
    assert recorder.closed == 1
    assert len(read_lines(path / "log.jsonl")) == 4
    assert json.loads((path / "metrics.json").read_text())["status"] == "non-finite loss"

    batch, metadata = read_tensors(path / "failed_batch.safetensors")
    assert metadata["step"] == "5"
    assert batch["images"].shape == (16, 1, 32, 32)
    assert batch["embeddings"].shape == (16, 8)
    expected = catalogue.find_dataset("tiny").load("train").labels[batch["rows"]]
    assert torch.equal(batch["labels"], expected)
    weights, _ = read_tensors(path / "weights.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())


def test_warm_up_then_cosine():
    factors = [RateSchedule(warmup_steps=20).factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 21)
    assert factors[19] == pytest.approx(20 / 21)
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.001
    assert factors[:21] == sorted(factors[:21])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert RateSchedule(warmup_steps=20).factor(3, 4) == pytest.approx(4 / 21)


def follow(budget, seconds_a_step, reserved=0.0):
    """Steps until the budget ends, and the time they took."""
    step, elapsed = 0, 0.0
    while step < budget.steps and not budget.out_of_time(elapsed):
        step += 1
        spent = seconds_a_step(step)
        elapsed += spent
        budget.observe(step, spent, elapsed, reserved)
    return step, elapsed


def test_a_fast_machine_takes_all_steps():
    budget = StepBudget(400, seconds=85)
    assert follow(budget, lambda step: 0.1) == (400, pytest.approx(40))
    assert not budget.replanned


def test_a_slow_machine_ends_shortly_before_the_limit():
    budget = StepBudget(400, seconds=85)
    steps, elapsed = follow(budget, lambda step: 0.5)
    assert budget.replanned
    assert steps == budget.steps
    assert 70 < elapsed < 85


def test_time_is_kept_for_evaluations():
    _, elapsed = follow(StepBudget(400, seconds=85), lambda step: 0.5, reserved=20.0)
    assert elapsed < 65


def test_a_slow_beginning_does_not_decide():
    budget = StepBudget(400, seconds=85)
    steps, elapsed = follow(budget, lambda step: 1.0 if step < 30 else 0.08)
    assert steps == 400
    assert elapsed < 85


def test_without_a_limit_the_clock_plays_no_part():
    budget = StepBudget(50)
    assert follow(budget, lambda step: 1000.0)[0] == 50
