"""Same seed, same result: to the last bit, and whatever the process did before."""

from __future__ import annotations

import torch

from fastdml.training.checkpoint import read_tensors
from fastdml.training.run import read_lines


def losses_and_weights(path):
    weights, _ = read_tensors(path / "weights.safetensors")
    return [line["loss"] for line in read_lines(path / "log.jsonl")], weights


def test_same_seed_gives_identical_losses_and_weights(run):
    _, first = run(out="first", seed=3)
    torch.rand(17)  # the caller's random numbers play no part
    _, second = run(out="second", seed=3)
    losses, weights = losses_and_weights(first)
    losses_again, weights_again = losses_and_weights(second)
    assert losses == losses_again
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    assert weights.keys() == weights_again.keys()
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_another_seed_gives_another_run(run):
    losses, weights = losses_and_weights(run(out="first", seed=3)[1])
    others, other_weights = losses_and_weights(run(out="second", seed=4)[1])
    assert losses[0] != others[0]
    assert not torch.equal(weights["head.weight"], other_weights["head.weight"])


def test_evaluating_while_training_changes_nothing(run):
    with_curve = losses_and_weights(run(out="first", evaluations=3)[1])
    without = losses_and_weights(run(out="second", evaluations=0)[1])
    assert with_curve[0] == without[0]
    assert torch.equal(with_curve[1]["head.weight"], without[1]["head.weight"])


def test_a_time_limit_that_is_not_felt_changes_nothing(run):
    limited = losses_and_weights(run(out="first", seconds=600.0, steps=30, evaluations=1)[1])
    free = losses_and_weights(run(out="second", steps=30, evaluations=1)[1])
    assert limited[0] == free[0]


def test_the_callers_random_state_is_left_alone(run):
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    run(steps=2)
    assert torch.equal(torch.rand(4), expected)


def test_training_learns(run):
    """On separable patterns a few dozen steps bring the loss down."""
    _, path = run(steps=60, evaluations=1, network_width=8, augment=False)
    losses, _ = losses_and_weights(path)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
