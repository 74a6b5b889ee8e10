"""Training with sharded centres, and checkpoints of it, equal training in one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_cases as cases
from ranks import Ranks
from sharded_cases import WIDTH, Problem

ROOT = Path(__file__).parents[2]
EXAMPLE, DOCUMENT = ROOT / "examples" / "sharded_centers.py", ROOT / "docs" / "sharded-centers.md"
NAMES = ("soft-triple", "soft-triple, each class its own number", "sphereface", "proxy-anchor")


def assert_trained_alike(found: list[cases.Trained], wanted: cases.Trained) -> None:
    for of_rank in found:
        for value, truth in zip(of_rank, wanted, strict=True):
            torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_saved_by_four_ranks_and_continued_by_two(ranks: Ranks, name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "checkpoint.pt")
    wanted = cases.in_one_process(name, range(8))
    first = ranks(4, cases.on_ranks, name, range(4), None, path)
    assert_trained_alike(first, cases.in_one_process(name, range(4)))
    second = ranks(2, cases.on_ranks, name, range(4, 8), path)
    assert_trained_alike(second, wanted._replace(values=wanted.values[4:]))


def test_the_whole_state_is_that_of_one_process(ranks: Ranks, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    ranks(4, cases.on_ranks, "soft-triple", range(3), None, str(path))
    saved = torch.load(path)
    loss, model = Problem("soft-triple", 7, ()).loss(), cases.network()
    optimiser = cases.optimiser_of(model, loss.centers)
    cases.trained(loss, model, optimiser, range(3), 0, 1)
    wanted = optimiser.state_dict()
    assert saved["optimizer"]["param_groups"] == wanted["param_groups"]
    for index, state in wanted["state"].items():
        assert saved["optimizer"]["state"][index].keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(saved["optimizer"]["state"][index][name], value, rtol=1e-9, atol=1e-9)
    loss.load_state_dict(saved["loss"])  # a loss of one process takes it as it is


@pytest.mark.parametrize("name", NAMES)
def test_data_parallel_networks_get_the_gradient_of_the_global_loss(ranks: Ranks, name: str) -> None:
    loss, model = Problem(name, 7, ()).loss(), cases.network()
    inputs, labels = cases.step_batch(0, 1)[0]
    loss(model(inputs), labels).backward()
    for found in ranks(4, cases.data_parallel_gradient, name):
        torch.testing.assert_close(found, model.weight.grad, rtol=1e-10, atol=1e-12)


def test_a_fresh_optimiser_has_no_state(ranks: Ranks) -> None:
    for state in ranks(4, cases.state_before_the_first_step):
        assert state["state"] == {}


@pytest.mark.parametrize("classes", [8, 10])
def test_a_rank_holds_its_share(ranks: Ranks, classes: int) -> None:
    per_class = 3
    for rank, sizes in enumerate(ranks(4, cases.held, classes, per_class)):
        share = (classes // 4 + (rank < classes % 4)) * per_class * WIDTH
        assert sizes == cases.Sizes(share, share, [share, share])


def test_states_that_do_not_fit_are_named(ranks: Ranks) -> None:
    for found in ranks(2, cases.refused_states):
        for fault, message in {
            "size": r"fc of the state_dict must have shape \[6, 21\], got \[6, 24\]",
            "name": r"state_dict must have the keys \['fc'\], got \['W'\]",
            "counts": "class_counts of the state_dict must be those of the loss",
            "moments": r"exp_avg of the state_dict must have shape \[6, 21\], got \[6, 24\]",
            "optimiser": "optimizer must update the centres of the loss",
            "factored": r"col_var of the optimizer must have the shape \[6, \d+\] of the centres, got \[1,",
            "rank": "state_dict must be that of rank . of 2, got rank",
        }.items():
            assert re.search(message, found[fault]), found[fault]


def test_a_rank_saves_and_loads_its_own(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(2, cases.own_state, str(tmp_path)) == [True, True]


def test_document(ranks: Ranks, tmp_path: Path) -> None:
    code = re.findall(
        r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    path = tmp_path / "state.pt"
    found = ranks(4, cases.run_document, code, str(path))
    whole = torch.load(path)["loss"]["fc"]
    assert whole.shape == (WIDTH, 7 * 10)
    assert torch.equal(torch.cat([before for before, _ in found], 1), whole)
    assert torch.equal(torch.cat([after for _, after in found], 1), whole)


def test_example(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(EXAMPLE), "--steps", "30", "--classes", "40", "--checkpoint", str(tmp_path / "checkpoint.pt")),
    ]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    values = [float(found) for found in re.findall(r"loss +([\d.]+)", done.stdout)]
    assert len(values) > 2
    assert values[-1] < 0.7 * values[0]
    assert sorted(re.findall(r"rank (\d): classes (\d+) to (\d+)", done.stdout)) == [
        ("0", "0", "19"),
        ("1", "20", "39"),
    ]
    saved = torch.load(tmp_path / "checkpoint.pt")
    assert saved["loss"]["fc"].shape[1] == saved["optimizer"]["state"][6]["exp_avg"].shape[1] == 40 * 5
