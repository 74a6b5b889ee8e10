"""The contest of FAT: those who compute it agree, and targets are held against the right rows."""

from __future__ import annotations

import pytest
import torch
from bench_rows import results, row

from bench.fat_peers import BLOCK, check_fat, fat_contestants, one_product
from bench.results import Results
from bench.tables import defeats
from bench.targets import check_targets
from bench.workload import Workload


def test_all_who_compute_fat_agree() -> None:
    assert check_fat("cpu") == {}
    names = [one.name for one in fat_contestants("cpu")]
    assert names == ["fastdml-cpu", "blocked", "dense", "product", "pml"]


def test_the_product_is_made_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(torch, "mm", lambda a, b, out: made.append((len(a), b.shape[1])))
    one_product(*Workload(BLOCK + 8, 4).make())
    assert made == [(BLOCK, BLOCK // 8 + 1), (8, BLOCK // 8 + 1)]


def test_targets() -> None:
    def found(own: float, product: float) -> Results:
        large = (row("fastdml-cpu", own, 65536), row("product", product, 65536))
        return results(*large, row("pml", 900.0), row("fastdml-cpu", 10.0), contest="fat")

    for own, verdict in ((1400.0, "reached"), (1600.0, "MISSED")):
        targets = {one.what: one for one in check_targets(found(own, 1000.0))}
        assert targets["time over that of one product at N 65,536, D 128, float32"].verdict == verdict
        assert targets["speed against pml at N 1,024, D 128, float32"].found == "90 x"
    assert not defeats(found(1400.0, 1000.0))  # the product is no rival
