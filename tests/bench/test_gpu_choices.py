"""Choices of tiles and blocks: each is in place while it is measured, and is what its name says."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from bench.workload import Workload
from fastdml.losses import ContrastiveLoss, MultiSimilarityLoss

configs = pytest.importorskip("fastdml.triton_kernels.configs")
choices = pytest.importorskip("bench.gpu.choices")
pair_choices = pytest.importorskip("bench.gpu.pair_choices")

HALF = torch.bfloat16
CASES = [
    (width, name) for width, found in pair_choices.CHOICES.items() for name in found if name != "shipped"
]


def test_a_choice_holds_for_forward_and_backward_and_no_longer() -> None:
    seen, shipped = [], configs.PROXY_SIMILARITIES

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        seen.append(configs.PROXY_SIMILARITIES)
        found = ContrastiveLoss()(embeddings, labels)
        found.register_hook(lambda grad: seen.append(configs.PROXY_SIMILARITIES))
        return found

    choices.ChosenTurn(loss, Workload(32, 8), {"PROXY_SIMILARITIES": 77})
    assert seen == [77, 77]
    assert configs.PROXY_SIMILARITIES == shipped != 77


def chosen(width: int) -> tuple[object, ...]:
    """All that the pair engine asks of configs.py for bfloat16 on sm_90."""
    found: list[object] = [
        configs.forward_tile("sm_90", HALF, width, "ieee", True),
        configs.row_owner_tile("sm_90", HALF, width, "ieee", True),
        configs.BLOCK_SIDE[2],
        configs.COUNTED_ROWS,
        configs.column_splits(torch.empty(0), 1, 64),
    ]
    return (*found, configs.block_tile("sm_90", HALF, width, "ieee", True))


@pytest.mark.parametrize(("width", "name"), CASES)
def test_a_choice_of_the_pair_engine_changes_one_thing(width: int, name: str) -> None:
    with choices.in_place(pair_choices.CHOICES[width][name]):
        other = chosen(width)
    changed = [at for at, (a, b) in enumerate(zip(chosen(width), other, strict=True)) if a != b]
    kinds = {
        "sums": 0,
        "owner": 1,
        "blocks": 1,
        "blocks of": 2,
        "labels": 3,
        "half": 4,
        "twice": 4,
        "weights": 5,
    }
    kind = "blocks of" if name.startswith("blocks of") else name.split()[0]
    # on the CPU a row block has one or two programs, so half of them may be as many
    assert changed == [kinds[kind]] or (changed == [] and kind == "half")
    if kind in ("sums", "owner"):
        tile = other[kinds[kind]]
        assert name.startswith(f"{kind} {tile.rows} x {tile.columns}")  # type: ignore[attr-defined]


@pytest.mark.skipif(os.environ.get("FASTDML_COMPILE_ALL", "0") != "1", reason="compiles for a minute")
@pytest.mark.parametrize(("width", "name"), CASES)
def test_the_tiles_of_the_pair_engine_fit_an_h100_unspilled(width: int, name: str) -> None:
    variants = pytest.importorskip("fastdml.triton_kernels.variants")
    with choices.in_place(pair_choices.CHOICES[width][name]):
        made = list(variants.pair_variants("sm_90", HALF, width))
    kinds = {"sums": "pair_negatives", "owner": "pair_row_gradients[self]", "weights": "pair_weights[self]"}
    for kernel in made:
        if kernel.name == kinds.get(name.split()[0]):
            found = variants.compile_variant(kernel, "sm_90")
            assert found.stack == 0, f"{name}: {kernel.name} spills registers"
            assert found.shared <= variants.SHARED_MEMORY["sm_90"]


def test_the_command_measures_all_choices(tmp_path: object) -> None:
    path = tmp_path / "pair_choices.json"  # type: ignore[operator]
    assert pair_choices.main(["--device", "cpu", "--backend", "cpu", "--tiny", "--out", str(path)]) == 0
    results = pytest.importorskip("bench.results").Results.load(path, pair_choices.CONTEST)
    timed = {row.provider for row in results.rows if row.p50}
    assert timed == {f"multi-similarity/{name}" for name in pair_choices.CHOICES[128]}


def test_no_size_is_begun_when_the_time_is_up(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pair_choices.json"  # type: ignore[operator]
    command = ["--device", "cpu", "--backend", "cpu", "--seconds", "0", "--out", str(path)]
    comparison = choices.Comparison("pair_choices", None, command)
    comparison.measure([Workload(32, 8)], "multi-similarity", MultiSimilarityLoss(), {"shipped": {}})
    assert "not begun" in capsys.readouterr().out
    assert not path.exists()
