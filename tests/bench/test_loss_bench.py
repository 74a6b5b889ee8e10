"""The contests of all losses and of a set as large as SOP's: nothing too large starts, targets are judged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench_rows import results, row

from bench import retrieval_sop
from bench.contests import CONTESTS, find_contestants
from bench.loss_peers import LOSSES, check_losses, loss_contestants
from bench.loss_tables import by_loss, loss_grid, loss_sizes, tell_loss_defeats
from bench.peers import MOST_BYTES, Contestant
from bench.report import readme_part, summary
from bench.results import Results, Size
from bench.targets import check_targets
from bench.workload import UNEVEN, Workload
from fastdml.resident_memory import can_measure

PLENTY = 1e15


def losses(*rows: object, kind: str = "cpu") -> Results:
    return results(*rows, contest="pair_losses", kind=kind)  # type: ignore[arg-type]


def test_both_libraries_compute_every_loss_as_the_dense_form_in_float64() -> None:
    assert check_losses("cpu", samples=64, width=12) == {}


def test_no_loss_of_pml_is_started_that_would_take_too_much() -> None:
    refused = {
        name: c.refuses(Workload(4096, 128), PLENTY)
        for name, c in ((c.name, c) for c in loss_contestants("cpu"))
    }
    assert {name for name, why in refused.items() if why} == {
        f"{loss}/pml" for loss in ("lifted", "nt-xent", "margin", "triplets")
    }
    assert all("needs about" in why for why in refused.values() if why)


def test_memory_is_refused_at_the_limit_and_at_what_is_free() -> None:
    contestant = Contestant("cubic", lambda: lambda x, y: x.sum(), bytes_a_cube=100)
    work = Workload(512, 8)  # 13.4 GB
    assert contestant.refuses(work, PLENTY) == "skipped: needs about 13 GB, may take 12 GB"
    fitting = Workload(256, 8)  # 1.7 GB
    assert contestant.refuses(fitting, MOST_BYTES) is None
    assert contestant.refuses(fitting, 2e9) == "skipped: needs about 2 GB, may take 2 GB"


def test_every_contest_has_contestants_that_run_here() -> None:
    for contest in CONTESTS:
        assert any(one.absent is None for one in find_contestants(contest, "cpu")), contest


def test_uneven_classes_are_as_large_as_they_should_be() -> None:
    embeddings, labels = Workload(1001, 8, uneven=True).make(requires_grad=False)
    sizes = labels.bincount()
    assert embeddings.shape == (1001, 8)
    assert len(labels) == 1001
    assert set(sizes[:-1].tolist()) == set(UNEVEN)
    assert sizes.min() >= 2
    assert not torch.equal(labels, labels.sort().values)
    # whatever N cuts off, no class is left with one sample, which no metric could score
    assert all(Workload(n, 2, uneven=True).make()[1].bincount().min() >= 2 for n in range(40, 60))


def test_a_row_for_every_loss_with_times_ratio_and_memory() -> None:
    held = losses(
        row("contrastive/fastdml", 2.0),
        row("contrastive/pml", 50.0),
        row("contrastive/fastdml", 3.0, metric="memory", unit="MB"),
        row("contrastive/pml", 300.0, metric="memory", unit="MB"),
        row("binomial deviance/fastdml", 4.0),
        row("lifted/fastdml", 5.0),
        row("lifted/pml", None, status="skipped: needs about 20 GB, may take 12 GB"),
        row("lifted/fastdml", 9.0, 8192),
    )
    assert list(by_loss(held)) == ["contrastive", "binomial deviance", "lifted"]
    assert loss_sizes(held, "both") == [Size(1024, 128, "float32"), Size(8192, 128, "float32")]
    assert loss_grid(held, "both", Size(1024, 128, "float32")) == [
        ["loss", "fastdml", "PML", "fastdml against PML", "fastdml, memory", "PML, memory"],
        ["contrastive", "2.00 ms", "50.0 ms", "25 x", "3.00 MB", "300 MB"],
        ["binomial deviance", "4.00 ms", "", "", "", ""],
        ["lifted", "5.00 ms", "does not fit", "", "", ""],
    ]
    assert loss_grid(held, "both", Size(8192, 128, "float32"))[1:] == [["lifted", "9.00 ms", "", ""]]
    part = readme_part([("a-machine", held)], "docs/figures")
    assert "| :--- | ---: |" in part
    assert "| contrastive | 2.00 ms | 50.0 ms | 25 x | 3.00 MB | 300 MB |" in part
    assert part.index("N = 1,024, D = 128") < part.index("N = 8,192, D = 128")
    assert 'src="docs/figures/a-machine-pair_losses-time-light.svg"' in part


def test_defeats_name_the_loss() -> None:
    held = losses(
        row("n-pairs/fastdml", 4.0),
        row("n-pairs/pml", 3.0),
        row("circle/fastdml", 4.0),
        row("circle/pml", 3.0, run="second"),  # not in turns
    )
    assert tell_loss_defeats(held) == [
        "PML is faster than fastdml's n-pairs at N = 1,024 (both, D = 128, float32; at most 1.3 times)."
    ]
    won = losses(row("n-pairs/fastdml", 2.0), row("n-pairs/pml", 3.0))
    assert tell_loss_defeats(won) == ["At no size measured was any of the others faster."]


def test_targets_of_the_losses() -> None:
    held = losses(
        row("multi-similarity/fastdml", 100.0, 4096),
        row("contrastive/fastdml", 130.0, 4096),
        row("contrastive/pml", 1299.0, 4096),
        row("supcon/fastdml", 131.0, 4096),
        row("supcon/pml", 1310.0, 4096),
        row("circle/fastdml", 90.0, 4096, run="second"),
        row("lifted/fastdml", 99.0, 8192, metric="memory", unit="MB"),
        row("triplets/fastdml", 101.0, 8192, metric="memory", unit="MB"),
    )
    verdicts = {target.what: (target.verdict, target.found) for target in check_targets(held)}
    over, size = "time over that of multi-similarity", "at N 4,096, D 128, float32"
    assert verdicts[f"contrastive: {over} {size}"] == ("reached", "1.3 x")
    assert verdicts[f"supcon: {over} {size}"] == ("MISSED", "1.31 x")
    assert verdicts[f"circle: {over} {size}"] == ("not measured", "measured in different runs")
    assert verdicts[f"binomial deviance: {over} {size}"][0] == "not measured"
    assert verdicts[f"contrastive: speed against pml {size}"] == ("MISSED", "9.99 x")
    assert verdicts[f"supcon: speed against pml {size}"] == ("reached", "10 x")
    assert f"binomial deviance: speed against pml {size}" not in verdicts
    memory = "memory beyond inputs and gradient at N 8,192, D 128, float32"
    assert verdicts[f"lifted: {memory}"] == ("reached", "99 MB")
    assert verdicts[f"triplets: {memory}"] == ("MISSED", "101 MB")
    assert verdicts[f"nt-xent: {memory}"][0] == "not measured"
    on_gpu = check_targets(losses(row("circle/fastdml", 1.0), kind="cuda"))
    assert {target.what.split(":")[0] for target in on_gpu} < set(LOSSES)
    assert all(target.wanted == "at most 1.3 x" for target in on_gpu)


@pytest.mark.parametrize(
    ("kind", "milliseconds", "expected"),
    [
        ("cpu", 14000.0, ["reached", "MISSED"]),
        ("cpu", 55000.0, ["MISSED", "MISSED"]),
        ("cuda", 150.0, ["reached"]),
        ("cuda", 201.0, ["MISSED"]),
    ],
)
def test_targets_of_the_large_set(kind: str, milliseconds: float, expected: list[str]) -> None:
    of_sop = {"direction": "evaluate", "D": 512}
    held = results(
        row("fastdml", milliseconds, 60502, **of_sop),
        row("faiss-cpu", 50000.0, 60502, **of_sop),
        row("fastdml", 201.0, 60502, metric="memory", unit="MB", **of_sop),
        contest="retrieval_sop",
        kind=kind,
    )
    assert [target.verdict for target in check_targets(held)] == expected
    part = readme_part([("a-machine", held)], "docs/figures")
    assert "fastdml against faiss-cpu" in part
    assert "<picture>" not in part  # one point makes no line
    assert any("60,502" in line for line in summary(held))


def test_the_large_set_is_recorded(tmp_path: Path) -> None:
    arguments = ["--tiny", "--device", "cpu", "--providers", "topk", "--results", str(tmp_path)]
    assert retrieval_sop.main(arguments) == 0
    (path,) = tmp_path.glob("*/retrieval_sop.json")
    stored = Results.load(path, "retrieval_sop")
    assert {(entry.provider, entry.metric) for entry in stored.rows} == {("topk", "time"), ("topk", "memory")}
    assert all(entry.status == "ok" for entry in stored.rows if entry.metric == "time" or can_measure())


def test_bars_are_drawn_for_both_themes(tmp_path: Path) -> None:
    draw = pytest.importorskip("bench.loss_figures", exc_type=ImportError).draw_losses
    held = losses(
        row("contrastive/fastdml", 2.0), row("contrastive/pml", 50.0), row("lifted/fastdml", 5.0),
        row("lifted/pml", None),
    )  # fmt: skip
    paths = [tmp_path / f"{theme}.svg" for theme in ("light", "dark")]
    for path in paths:
        draw(held, "time", Size(1024, 128, "float32"), path.stem, path)
    light, dark = (path.read_text() for path in paths)
    assert light != dark
    slower = losses(row("contrastive/fastdml", 60.0), row("contrastive/pml", 50.0))
    draw(slower, "time", Size(1024, 128, "float32"), "light", paths[0])
    assert paths[0].read_text() != light
    assert light.rstrip().endswith("</svg>")
