"""The measurements of large batches measure what they say."""

from __future__ import annotations

import pytest
import torch

from bench.gpu.step_share import TINY as CASES
from bench.gpu.step_share import measure
from bench.large_batch import TINY, Sizes, Work, peak_apart
from fastdml.resident_memory import can_measure


def test_the_ideal_computes_what_cached_gradients_do() -> None:
    work = Work(TINY, "cpu")
    work.model.eval()  # BatchNorm without chunks, so that the whole batch is the same too
    found = {}
    for kind in ("cached", "whole", "ideal"):
        if kind == "ideal":
            work.ideal()
        else:
            work.step(kind)
        found[kind] = [parameter.grad.clone() for parameter in work.model.parameters()]
    torch.testing.assert_close(found["cached"], found["ideal"])
    torch.testing.assert_close(found["whole"], found["ideal"], rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(not can_measure(), reason="needs a resettable high-water mark (Linux)")
def test_a_batch_of_many_chunks_takes_little_more_memory_than_one_chunk() -> None:
    sizes = Sizes(batch=4096, chunk=256, width=16)
    one, cached = peak_apart("one chunk", sizes, "cpu"), peak_apart("cached", sizes, "cpu")
    assert cached < 1.3 * one
    assert one > 30e6  # else there was nothing to compare with


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_the_share_of_the_loss(case) -> None:
    found = measure(case, torch.device("cpu"), steps=4, precision="fp32")
    seconds = found["seconds"]
    assert min(seconds.values()) > 0
    assert found["share_of_loss"] == pytest.approx(seconds["loss"] / sum(seconds.values()))
