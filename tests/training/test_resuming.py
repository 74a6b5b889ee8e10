"""A run that is taken up again is the run that was never interrupted, to the last bit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from fastdml.training import ConfigError
from fastdml.training.checkpoint import CheckpointError
from fastdml.training.network import EmbeddingNetwork
from fastdml.training.run import read_lines

STEPS = 14
KINDS = {
    "plain": {},
    "in chunks": {"chunk": 4},
    "memory": {"memory": 40, "loss": "contrastive-mined"},
    "centres": {"loss": "soft-triple"},
    "a learnt boundary": {"loss": "margin"},
    "momentum": {"optimiser": "sgd", "schedule": "step", "decay_every": 3, "learning_rate": 0.01},
    "half precision": {"precision": "bf16"},
    "scaled gradients": {"precision": "fp16", "chunk": 8},
    "noise": {"noise": 0.2},
    "a teacher": {
        "noise": 0.2,
        "distill": True,
        "loss": "fat",
        "teacher_epochs": 2,
        "teacher_rounds": 1,
        "trust": 0.1,
    },
}


@pytest.fixture
def run(run):
    """Without the report, which takes longer than these runs."""
    return partial(run, write_report=lambda result, directory: None)


def contents(path: Path) -> tuple[list[float], bytes, bytes | None]:
    """Losses of every step, and the files of weights."""
    loss = path / "loss.safetensors"
    return (
        [line["loss"] for line in read_lines(path / "log.jsonl")],
        (path / "weights.safetensors").read_bytes(),
        loss.read_bytes() if loss.exists() else None,
    )


def interrupt_after(recorder, step: int) -> None:
    """Ctrl-C at a step."""

    def interrupt(record) -> None:
        if record.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    recorder.after_step = interrupt


def let_it_run(recorder) -> None:
    recorder.after_step = lambda record: None


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(run, recorder, kind):
    changes = {"steps": STEPS, "evaluations": 3, "checkpoint_every": 4, **KINDS[kind]}
    whole, expected = run(out="whole", **changes)
    interrupt_after(recorder, 6)
    part, path = run(out="part", **changes)
    assert part.outcome.stopped_by == "SIGINT"
    let_it_run(recorder)
    result, path = run(out="part", resume=True, **changes)
    assert result.outcome.stopped_by == "steps"
    assert contents(path) == contents(expected)
    # the evaluation at the end of the interrupted part is taken back
    assert result.curve == whole.curve
    steps = [line["step"] for line in read_lines(path / "evaluations.jsonl")]
    assert steps == [line["step"] for line in read_lines(expected / "evaluations.jsonl")]


SCRIPT = """
import sys
from fastdml.training import TrainConfig, run_experiment
from fastdml.training.progress import PlainDisplay
config = TrainConfig(steps=30, batch=16, samples_per_class=4, embedding_dim=8, network_width=4, memory=32,
                     loss="contrastive", evaluations=1, checkpoint_every=4, device="cpu", chunk=8)
run_experiment(config, sys.argv[1], PlainDisplay(), resume=sys.argv[2] == "resume", panel_seconds=0,
               write_report=lambda result, run: None)
"""


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path, how: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(out), how], env=environment, stdout=subprocess.DEVNULL
        )

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed, "new")
    deadline = time.monotonic() + 90
    while len(read_lines(killed / "log.jsonl")) < 10:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert len(read_lines(killed / "log.jsonl")) < 30
    assert not (killed / "metrics.json").exists()
    with start(killed, "resume") as resumed, start(whole, "new") as uninterrupted:
        assert resumed.wait(120) == uninterrupted.wait(120) == 0
    assert contents(killed) == contents(whole)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["a bit", "cut off", "gone"])
def test_a_damaged_checkpoint_is_passed_over(run, recorder, file, damage):
    changes = {"steps": 10, "evaluations": 1, "checkpoint_every": 3}
    _, expected = run(out="whole", **changes)
    interrupt_after(recorder, 7)
    _, path = run(out="part", **changes)
    let_it_run(recorder)
    folders = sorted(folder.name for folder in (path / "checkpoints").iterdir())
    assert folders == ["step-00000006", "step-00000007"]
    _damage(path / "checkpoints" / folders[-1] / file, damage)
    run(out="part", resume=True, **changes)
    assert any("step-00000007" in note and "passed over" in note for note in recorder.notes)
    assert any("Going on after step 6" in phase for phase in recorder.phases)
    assert contents(path) == contents(expected)


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_where_all_checkpoints_are_damaged_nothing_is_lost(run, recorder):
    changes = {"steps": 10, "checkpoint_every": 3}
    interrupt_after(recorder, 7)
    _, path = run(**changes)
    let_it_run(recorder)
    for folder in (path / "checkpoints").iterdir():
        _damage(folder / "state.pt", "a bit")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="all 2 are damaged"):
        run(resume=True, **changes)
    assert {file: file.read_bytes() for file in before} == before


def test_other_settings_cannot_go_on(run, recorder):
    interrupt_after(recorder, 4)
    run(steps=8)
    let_it_run(recorder)
    with pytest.raises(ConfigError, match=r"learning_rate must be 0\.005 as in .*config\.json, got 0\.01"):
        run(steps=8, resume=True, learning_rate=0.01)
    result, _ = run(steps=8, resume=True, workers=1)  # which the numbers do not depend on
    assert result.outcome.steps_taken == 8
    with pytest.raises(ConfigError, match="is complete"):
        run(steps=8, resume=True)


def test_a_run_without_a_checkpoint_starts_anew(run, recorder):
    changes = {"steps": 5, "checkpoint_every": 0}
    _, expected = run(out="whole", **changes)
    _, path = run(out="part", **changes)
    (path / "metrics.json").unlink()  # as if killed: nothing to go on from
    run(out="part", resume=True, **changes)
    assert contents(path) == contents(expected)


def test_the_last_two_checkpoints_are_kept(run):
    _, path = run(steps=9, checkpoint_every=2)
    folders = sorted(folder.name for folder in (path / "checkpoints").iterdir())
    assert folders == ["step-00000006", "step-00000008"]


def test_a_full_disk_ends_neither_the_run_nor_the_checkpoints_before(run, recorder):
    changes = {"steps": 6, "checkpoint_every": 2}
    _, expected = run(out="whole", **changes)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(record) -> None:  # no file may grow beyond what the log needs from step 3 on, to the last step
        if record.step in (3, 5):
            full = record.step == 3
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]) if full else limits)

    recorder.after_step = fill
    try:
        _, path = run(out="part", **changes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert any("no checkpoint at step 4" in note for note in recorder.notes)
    assert [folder.name for folder in (path / "checkpoints").iterdir()] == ["step-00000002"]
    assert contents(path) == contents(expected)


@pytest.fixture
def small_memory(monkeypatch):
    """A device that holds so many images of a batch: in the forward pass, or in the backward alone."""

    def limit(rows: int, where: str) -> None:
        forward = EmbeddingNetwork.forward

        def limited(self, images):
            if len(images) > rows and self.training and torch.is_grad_enabled() == (where == "with a graph"):
                raise torch.OutOfMemoryError(f"{len(images)} images are too many")
            return forward(self, images)

        monkeypatch.setattr(EmbeddingNetwork, "forward", limited)

    return limit


@pytest.mark.parametrize(
    ("chunk", "where"), [(None, "with a graph"), (8, "with a graph"), (8, "without a graph")]
)
@pytest.mark.parametrize("memory", [0, 40])
def test_out_of_memory_halves_the_chunk_once_and_goes_on(run, recorder, small_memory, chunk, where, memory):
    changes = {"steps": 5, "loss": "contrastive", "memory": memory}
    half = (chunk or 16) // 2
    _, expected = run(out="whole", chunk=half, **changes)
    small_memory(half, where)
    _, path = run(out="small", chunk=chunk, **changes)
    (note,) = [note for note in recorder.notes if "out of memory" in note]
    assert "at step 1" in note
    assert "images are too many" in note
    assert contents(path) == contents(expected)


def test_out_of_memory_twice_ends_the_run(run, small_memory):
    small_memory(3, "with a graph")
    with pytest.raises(RuntimeError, match="with chunks of half the size too"):
        run(steps=5)
