"""A finished run: every file is there, whole, and tells the same story."""

from __future__ import annotations

import json

import pytest
import torch

from fastdml.training import ConfigError, EmbeddingNetwork, TrainConfig
from fastdml.training.checkpoint import load_weights
from fastdml.training.evaluation import embed, retrieve
from fastdml.training.run import RunDirectory, read_lines


def test_every_file_is_there_and_nothing_else(run):
    _, path = run()
    assert sorted(file.name for file in path.iterdir()) == [
        "config.json",
        "evaluations.jsonl",
        "log.jsonl",
        "metrics.json",
        "report.html",
        "weights.safetensors",
    ]


def test_the_log_has_one_line_a_step_that_equals_what_was_shown(run, recorder):
    run(steps=7)
    _, path = run(out="second", steps=7)
    lines = read_lines(path / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 8))
    shown = recorder.records[-7:]
    assert [line["loss"] for line in lines] == [record.loss for record in shown]
    for line in lines:
        assert set(line) == {
            "step",
            "loss",
            "learning_rate",
            "gradient_norm",
            "step_seconds",
            "loss_seconds",
            "data_seconds",
            "network_seconds",
            "update_seconds",
            "images",
            "images_per_second",
            "memory_bytes",
            "seconds",
        }
        assert line["gradient_norm"] > 0
        assert line["images"] == 16
        parts = [line[f"{part}_seconds"] for part in ("data", "network", "loss", "update")]
        assert min(parts) > 0
        assert sum(parts) <= line["step_seconds"]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_metrics_agree_with_the_result_and_the_evaluations(run, recorder):
    result, path = run(steps=6, evaluations=3)
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["status"] == "complete"
    assert metrics["steps"] == 6
    assert list(metrics["recall"]) == ["raw pixels", "untrained", "trained"]
    assert metrics["recall"]["trained"] == {f"R@{k}": value for k, value in result.rows["trained"].items()}
    assert [point["step"] for point in metrics["recall_at_1_curve"]] == [0, 2, 4, 6]
    assert metrics["recall_at_1_curve"][-1]["recall_at_1"] == metrics["recall"]["trained"]["R@1"]
    assert metrics["queries"] == 36
    evaluations = read_lines(path / "evaluations.jsonl")
    assert [line["step"] for line in evaluations] == recorder.evaluations == [2, 4, 6]
    assert evaluations[-1]["R@8"] == metrics["recall"]["trained"]["R@8"]


def test_the_weights_give_the_reported_recall_again(run):
    result, path = run(steps=5)
    model = EmbeddingNetwork(embedding_dim=8, width=4)
    metadata = load_weights(path / "weights.safetensors", model)
    assert metadata["stopped_by"] == "steps"
    again = retrieve(embed(model, result.test, torch.device("cpu")), result.test)
    assert again.result.recall == result.rows["trained"]


def test_the_settings_can_be_read_back(run, settings):
    _, path = run()
    assert TrainConfig.read(path / "config.json") == TrainConfig(**settings)
    (path / "config.json").write_text('{"stepz": 3}')
    with pytest.raises(ConfigError, match=r"settings that do not exist: 'stepz' \(near it: steps\)"):
        TrainConfig.read(path / "config.json")


def test_a_run_is_not_overwritten_unless_asked(run):
    _, path = run()
    before = (path / "weights.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="out must be a new run"):
        run(seed=1)
    assert (path / "weights.safetensors").read_bytes() == before
    run(seed=1, steps=2, overwrite=True)
    assert (path / "weights.safetensors").read_bytes() != before
    assert len(read_lines(path / "log.jsonl")) == 2
    assert len(read_lines(path / "evaluations.jsonl")) == 2


def test_unused_directories(tmp_path):
    assert RunDirectory.unused(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert RunDirectory.unused(tmp_path / "demo") == tmp_path / "demo-3"


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="out must be a directory, got the file"):
        RunDirectory(tmp_path / "taken")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "mnist"}, "data must be the path of a data set, or one of glyphs, tiny, got 'mnist'"),
        ({"loss": "tripplet"}, "loss must be one of arcface, .*triplet-semihard, got 'tripplet'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 15}, r"batch must be a multiple of samples_per_class \(4\)"),
        ({"batch": 4}, "at least two classes, got 4"),
        ({"samples_per_class": 1}, "samples_per_class must be at least 2, got 1"),
        ({"seconds": 0.0}, "seconds must be None or above 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"noise": 1.0}, "noise must be a share from 0 to below 1, got 1.0"),
        ({"noise_kind": "none"}, "noise_kind must be one of wrong-id, no-id, several-ids, got 'none'"),
        ({"teacher_epochs": 0}, "teacher_epochs must be at least 1, got 0"),
        ({"teacher_rounds": -1}, "teacher_rounds must be at least 0, got -1"),
        ({"trust": 1.1}, "trust must be a probability from 0 to 1, got 1.1"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:<n>, got 'tpu'"),
        (
            {"backend": "fortran"},
            "backend must be one of triton, cuda, cpu, blocked, reference, got 'fortran'",
        ),
        ({"batch": 64}, "batch needs 16 classes, but tiny has only 8"),
        ({"samples_per_class": 8}, "samples_per_class must be at most 6"),
    ],
)
def test_settings_that_cannot_work_are_named_and_leave_nothing(run, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        run(**change)
    assert not (tmp_path / "run").exists()
