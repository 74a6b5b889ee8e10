"""Weights on disk: whole or not there, and never loaded into a model that they do not fit."""

from __future__ import annotations

import os

import pytest
import torch

from fastdml.training import EmbeddingNetwork
from fastdml.training.checkpoint import (
    CheckpointError,
    load_weights,
    read_tensors,
    save_weights,
    write_atomically,
)


def test_a_round_trip_keeps_every_bit(tmp_path):
    torch.manual_seed(0)
    model, other = EmbeddingNetwork(8, 4), EmbeddingNetwork(8, 4)
    model.set_pixel_statistics(torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8))
    save_weights(tmp_path / "w.safetensors", model, {"note": "é"})
    assert load_weights(tmp_path / "w.safetensors", other) == {"note": "é"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    images = torch.rand(3, 1, 32, 32)
    assert torch.equal(model.eval()(images), other.eval()(images))


def test_a_failing_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new and longer")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    plain, written = tmp_path / "plain", tmp_path / "written"
    plain.write_bytes(b"")
    write_atomically(written, b"")
    assert written.stat().st_mode == plain.stat().st_mode


def test_damaged_missing_and_unfit_files_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError, match="must be a readable safetensors file"):
        read_tensors(path)
    model = EmbeddingNetwork(8, 4)
    save_weights(path, model)
    whole = path.read_bytes()
    with pytest.raises(CheckpointError, match="tensors differ, first head"):
        load_weights(path, EmbeddingNetwork(16, 4))
    path.write_bytes(whole[: len(whole) // 2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="must be a readable safetensors file"):
        load_weights(path, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
