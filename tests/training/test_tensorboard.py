"""The curves for TensorBoard, read back from the event file."""

from __future__ import annotations

import sys

import pytest

from fastdml.training.config import ConfigError
from fastdml.training.records import StepRecord
from fastdml.training.tensorboard import TensorBoardLog


def record(step, loss):
    return StepRecord(
        step=step,
        loss=loss,
        learning_rate=0.001 * step,
        gradient_norm=2.0 + step,
        step_seconds=0.5,
        loss_seconds=0.125,
        data_seconds=0.25,
        network_seconds=0.0625,
        update_seconds=0.03125,
        images=64,
        images_per_second=128.0,
        memory_bytes=3 << 30,
        seconds=0.5 * step,
    )


def curves(run):
    """Tag -> [(step, value)] of all event files of a run."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_every_number_of_a_step_and_of_an_evaluation_is_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    with TensorBoardLog(tmp_path) as log:
        log.on_evaluation(0, {1: 0.125, 8: 0.5})
        log.on_step(record(1, 4.0), 2)
        log.on_step(record(2, 3.5), 2)
        log.on_evaluation(2, {1: 0.25, 8: 0.75})
    found = curves(tmp_path)
    assert found["train/loss"] == [(1, 4.0), (2, 3.5)]
    assert found["train/gradient_norm"] == [(1, 3.0), (2, 4.0)]
    assert found["train/learning_rate"] == [(1, pytest.approx(0.001)), (2, pytest.approx(0.002))]
    assert found["speed/images_per_second"] == [(1, 128.0), (2, 128.0)]
    assert found["speed/step_seconds"][0] == (1, 0.5)
    assert found["speed/loss_seconds"][0] == (1, 0.125)
    assert found["speed/data_seconds"][0] == (1, 0.25)
    assert found["speed/network_seconds"][0] == (1, 0.0625)
    assert found["speed/update_seconds"][0] == (1, 0.03125)
    assert found["memory/bytes"][0] == (1, 3 << 30)
    assert found["recall/at_1"] == [(0, 0.125), (2, 0.25)]
    assert found["recall/at_8"] == [(0, 0.5), (2, 0.75)]
    assert len(found) == 12


def test_a_resumed_run_replaces_the_steps_that_it_makes_again(tmp_path):
    pytest.importorskip("tensorboard")
    with TensorBoardLog(tmp_path) as log:
        for step in range(1, 6):
            log.on_step(record(step, 1.0), 8)
    with TensorBoardLog(tmp_path, first_step=4) as log:
        for step in range(4, 7):
            log.on_step(record(step, 2.0), 8)
    assert curves(tmp_path)["train/loss"] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


def test_what_was_evaluated_is_there_while_the_run_goes_on(tmp_path):
    pytest.importorskip("tensorboard")
    log = TensorBoardLog(tmp_path)
    log.on_step(record(1, 4.0), 2)
    log.on_evaluation(1, {1: 0.5})
    assert curves(tmp_path)["train/loss"] == [(1, 4.0)]
    log.close()


def test_without_the_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'fastdml\[tensorboard\]'"):
        TensorBoardLog(tmp_path)
    assert list(tmp_path.iterdir()) == []
