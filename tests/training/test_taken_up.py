"""What a run that is taken up again owes to how it ended, and to what stands in its folder."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastdml.data.images import UnreadableImageError
from fastdml.training import ConfigError, backbones, catalogue, loop
from fastdml.training.checkpoint import CheckpointError
from fastdml.training.config import TrainConfig
from fastdml.training.loop import _Training
from fastdml.training.processes import Processes
from fastdml.training.resuming import check_can_resume
from fastdml.training.run import RunDirectory, read_lines
from fastdml.training.schedule import StepBudget


@pytest.fixture
def run(run):
    """Without the report, which takes longer than these runs."""
    return partial(run, write_report=lambda result, directory: None)


@pytest.fixture
def interrupted(run, recorder):
    """A run that is interrupted after some step: interrupted(7, steps=10) -> its folder."""

    def go(step, **changes):
        recorder.after_step = lambda record: (
            os.kill(os.getpid(), signal.SIGINT) if record.step == step else None
        )
        _, path = run(**changes)
        recorder.after_step = lambda record: None
        return path

    return go


def checkpoints(path):
    return sorted(folder.name for folder in (path / "checkpoints").iterdir())


def spoil(path, step):
    (path / "checkpoints" / f"step-{step:08d}" / "state.pt").write_bytes(b"nothing")


def test_an_evaluation_that_a_signal_came_before_is_made_up_for(run, interrupted):
    changes = {"steps": 12, "evaluations": 4}
    whole, _ = run(out="whole", **changes)
    assert [step for step, _ in whole.curve] == [0, 3, 6, 9, 12]
    path = interrupted(6, **changes)
    result, _ = run(resume=True, **changes)
    assert result.curve == whole.curve
    assert [line["step"] for line in read_lines(path / "evaluations.jsonl")] == [3, 6, 9, 12]


def test_more_evaluations_may_be_asked_for(run, interrupted):
    interrupted(4, steps=12, evaluations=1)
    result, _ = run(resume=True, steps=12, evaluations=4)
    assert [step for step, _ in result.curve] == [0, 4, 7, 9, 12]


def test_a_damaged_checkpoint_is_none_of_the_last_two(run, interrupted, recorder):
    changes = {"steps": 12, "evaluations": 1, "checkpoint_every": 3}
    path = interrupted(7, **changes)
    spoil(path, 7)
    recorder.after_step = lambda record: os.kill(os.getpid(), signal.SIGINT) if record.step == 8 else None
    run(resume=True, **changes)
    assert checkpoints(path) == ["step-00000006", "step-00000008"]
    recorder.after_step = lambda record: None
    spoil(path, 8)
    result, _ = run(resume=True, **changes)
    assert any("Going on after step 6" in phase for phase in recorder.phases)
    assert result.outcome.steps_taken == 12


def test_what_a_killed_process_left_half_written_goes(run, interrupted):
    path = interrupted(4, steps=10)
    left = path / "checkpoints" / ".step-00000003.unfinished"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    run(resume=True, steps=10, checkpoint_every=6)
    assert not left.exists()
    assert checkpoints(path) == ["step-00000004", "step-00000006"]


def test_checkpoints_without_settings_are_not_taken_for_those_of_a_run(run, interrupted):
    path = interrupted(4, steps=10)
    (path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json must be there"):
        run(resume=True, steps=10)


def test_a_network_that_a_checkpoint_does_not_fit(run, interrupted):
    path = interrupted(4, steps=10)
    other = json.loads((path / "config.json").read_text()) | {"network_width": 8}
    (path / "config.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        run(resume=True, steps=10, network_width=8)


def test_settings_are_compared_as_they_are_read_again(tmp_path):
    config = TrainConfig(network_options={"mean": (0.4, 0.5), "most": float("inf")})
    RunDirectory(tmp_path).write_json("config.json", config.to_dict())
    check_can_resume(config, tmp_path)
    with pytest.raises(ConfigError, match=r"network_options must be \{'mean': \[0\.4, 0\.5\]"):
        check_can_resume(replace(config, network_options={"mean": (0.4, 0.6)}), tmp_path)


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"steps": 3}'])
def test_results_that_were_cut_off_are_those_of_no_complete_run(tmp_path, torn):
    RunDirectory(tmp_path).write_json("config.json", TrainConfig().to_dict())
    (tmp_path / "metrics.json").write_text(torn)
    check_can_resume(TrainConfig(), tmp_path)


def test_a_run_out_of_time_can_go_on(run):
    changes = {"steps": 400, "evaluations": 0, "checkpoint_every": 0}
    short, path = run(seconds=0.5, **changes)
    assert short.outcome.stopped_by == "time"
    made = short.outcome.steps_taken
    assert checkpoints(path) == [f"step-{made:08d}"]
    longer, _ = run(resume=True, seconds=short.outcome.seconds + 0.3, **changes)
    assert longer.outcome.steps_taken > made
    steps = [line["step"] for line in read_lines(path / "log.jsonl")]
    assert steps == list(range(1, longer.outcome.steps_taken + 1))


@pytest.mark.parametrize(("seconds", "steps"), [(60.0, 30), (90.0, 100), (None, 100)])
def test_a_plan_goes_on_while_the_limit_is_the_same(seconds, steps):
    limited = StepBudget(100, 60.0)
    limited.steps, limited.replanned = 30, True
    budget = StepBudget(100, seconds)
    budget.load_state_dict(limited.state_dict())
    assert (budget.steps, budget.replanned) == (steps, True)


def test_centres_draw_images_of_files_as_the_network_saw_them(run, tmp_path):
    """Files are read larger than the network's images, for random crops."""
    pytest.importorskip("kornia")
    for split in ("train", "test"):
        for name in range(4):
            folder = tmp_path / "set" / split / f"{split}{name}"
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = torch.randint(256, (40, 40, 3), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{number}.png")
    result, _ = run(
        data=str(tmp_path / "set"), image_size="32", loss="soft-triple", batch=8, steps=2, workers=0
    )
    assert sorted(result.centers.drawn) == [0, 1, 2, 3]
    drawn = [row for one in result.centers.drawn.values() for center in one for row in center.images]
    assert sorted(drawn) == list(range(16))


def test_a_full_disk_does_not_hide_that_a_loss_was_not_finite(run, recorder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "save_tensors", full)
    with pytest.raises(loop.NonFiniteLossError, match=r"could not be saved: .* No space left"):
        run(learning_rate=1e30, steps=20)


def test_a_signal_after_the_last_step_was_agreed_on_changes_nothing(run, monkeypatch):
    """It may come to some processes before and to others after; all must do the same."""
    load = loop.load_chunks

    @contextmanager
    def late(*arguments):
        with load(*arguments) as images:
            yield images
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "load_chunks", late)
    result, path = run(steps=3, evaluations=0)
    assert result.outcome.stopped_by == "steps"
    assert not (path / "checkpoints").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_an_unreadable_image_of_any_process_is_told_of(recorder, rank):
    training = object.__new__(_Training)
    training.processes, training.watcher = Processes(torch.device("cpu"), rank, 2), recorder
    with pytest.warns(match=r"a\.png cannot be read") if rank else nullcontext():
        training._skipped(Path("a.png"))
    assert len(recorder.notes) == (rank == 0)


class Spoilt:
    """Images of a split, one of which cannot be read for the time being."""

    def __init__(self, images, row):
        self.images, self.row, self.whole = images, row, False

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        if not self.whole and (rows == self.row).any():
            raise UnreadableImageError(f"image {self.row}", "it is spoilt")
        return self.images[rows]


def test_what_was_learnt_is_saved_where_an_image_cannot_be_read(run, tmp_path, monkeypatch):
    changes = {"steps": 12, "augment": False, "checkpoint_every": 0}
    _, expected = run(out="whole", **changes)
    entry = catalogue.find_dataset("tiny")
    spoilt = Spoilt(entry.load("train").images, 47)  # not among those that the first batches draw
    halves = {"train": replace(entry.load("train"), images=spoilt), "test": entry.load("test")}
    monkeypatch.setitem(catalogue.DATASETS, "tiny", catalogue.DatasetEntry(halves.__getitem__, "for tests"))
    monkeypatch.setattr(backbones, "_sample", lambda train: entry.load("train").images)
    with pytest.raises(UnreadableImageError, match="it is spoilt"):
        run(out="spoilt", **changes)
    steps = len(read_lines(tmp_path / "spoilt" / "log.jsonl"))
    assert 0 < steps < 12
    assert checkpoints(tmp_path / "spoilt") == [f"step-{steps:08d}"]
    spoilt.whole = True
    _, path = run(out="spoilt", resume=True, **changes)
    assert (path / "weights.safetensors").read_bytes() == (expected / "weights.safetensors").read_bytes()
