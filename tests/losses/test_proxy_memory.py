"""Nothing grows with samples x centres: what is saved for the backward, and the peak of a step."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import fastdml
from fastdml import losses
from fastdml.engines.pair_ops import CPU_KEPT_BUDGET
from fastdml.resident_memory import can_measure

SAMPLES, WIDTH, CLASSES, CENTRES = 384, 16, 5000, 10
KINDS = {
    "SoftTripleLoss": {"centers_per_class": CENTRES, "tau": 0.2},
    "HardTripleLoss": {"centers_per_class": CENTRES},
    "SubCenterArcFaceLoss": {"sub_centers": CENTRES},
    "NormalizedSoftmaxLoss": {},
    "ProxyNCALoss": {},
    "ArcFaceLoss": {},
    "CosFaceLoss": {},
    "SphereFaceLoss": {},
    "ProxyAnchorLoss": {},
}
backends = pytest.mark.parametrize("backend", ["cpu", "blocked"])

STEP = """
import json, sys, torch, fastdml
from fastdml import losses
from fastdml.resident_memory import high_water, release_freed_memory, reset_high_water
kind, arguments, backend, samples, width, classes = json.loads(sys.argv[1])
torch.set_num_threads(2)
def step(samples, classes):
    loss = getattr(losses, kind)(classes, width, **arguments)
    embeddings = torch.randn(samples, width, requires_grad=True)
    labels = torch.randint(classes, (samples,))
    release_freed_memory()
    before = reset_high_water()
    with fastdml.use_backend(backend):
        loss(embeddings, labels).backward()
    gradients = sum(p.grad.nbytes for p in loss.parameters()) + embeddings.grad.nbytes
    return high_water() - before - gradients
step(16, 50)
print(step(samples, classes))
"""


@backends
@pytest.mark.parametrize("kind", KINDS)
def test_saves_nothing_that_grows_with_both(kind: str, backend: str) -> None:
    torch.manual_seed(0)
    loss = getattr(losses, kind)(CLASSES, WIDTH, **KINDS[kind])
    (parameter,) = loss.parameters()
    embeddings = torch.randn(SAMPLES, WIDTH, requires_grad=True)
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != parameter.untyped_storage().data_ptr():
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with fastdml.use_backend(backend), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss(embeddings, torch.randint(CLASSES, (SAMPLES,)))
    centres = parameter.numel() // WIDTH
    # a few numbers a sample and a centre, and samples and proxies as they are compared
    wanted = 4 * (3 * SAMPLES * WIDTH + 40 * SAMPLES + 8 * centres)
    if kind == "ProxyAnchorLoss":
        # the pair engine keeps similarities up to a fixed number of them
        wanted += 4 * (40 * centres + centres * WIDTH + CPU_KEPT_BUDGET)
    assert 0 < sum(saved.values()) <= wanted
    value.backward()


def peak(kind: str, backend: str, samples: int, classes: int) -> int:
    request: list[Any] = [kind, KINDS[kind], backend, samples, WIDTH, classes]
    done = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps(request)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not can_measure(), reason="this system does not let a process reset its high-water mark")
@backends
@pytest.mark.parametrize(("kind", "centres"), [("SoftTripleLoss", CENTRES), ("ArcFaceLoss", 1)])
def test_peak_of_a_step_is_far_below_all_similarities(kind: str, centres: int, backend: str) -> None:
    if backend not in fastdml.available_backends():
        pytest.skip(f"no {backend} backend here")
    classes = CLASSES * (CENTRES if centres == 1 else 1)
    similarities = 4 * SAMPLES * classes * centres
    found = peak(kind, backend, SAMPLES, classes)
    assert found < similarities * (0.25 if backend == "cpu" else 0.75), f"{found:,} of {similarities:,}"


@pytest.mark.skipif(not can_measure(), reason="this system does not let a process reset its high-water mark")
@pytest.mark.skipif("cpu" not in fastdml.available_backends(), reason="no native extension here")
def test_a_single_sample_takes_little_memory_of_every_worker() -> None:
    assert peak("SoftTripleLoss", "cpu", 1, 4 * CLASSES) < 4 * 4 * CLASSES * CENTRES * WIDTH
