"""The benchmarks measure what they say: contestants agree, rows survive, reports say where fastdml loses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_rows import HEADER, results, row

from bench import blocked
from bench.contests import CONTESTS
from bench.gpu.kernels import own_kernels
from bench.gpu.sanitizer import read_log
from bench.interleaved import TINY, Protocol, interleave, quantiles, rotated
from bench.peers import Contestant, check_agreement, pair_contestants
from bench.replay import RecordedClock
from bench.report import END, START, readme_part, replace_between
from bench.results import Results, Size
from bench.retrieval_peers import check_retrieval
from bench.sweep import HELD, Sweep
from bench.tables import amount, defeats, grid, tell_defeats
from bench.targets import check_targets
from bench.turns import Clocked, Turn
from bench.workload import PER_CLASS, Workload


def test_contestants_agree_in_loss_and_gradient_with_float64() -> None:
    # torch.compile takes longer than all other tests here together; the benchmarks themselves check it.
    contestants = [c for c in pair_contestants("cpu") if c.name != "compiled"]
    checked = check_agreement(contestants, "cpu", samples=96, width=24)
    assert {"dense", "blocked"} <= set(checked)
    for name, found in checked.items():
        assert found.agrees, f"{name}: loss off by {found.loss_error}, gradient by {found.gradient_error}"


def test_agreement_catches_a_wrong_gradient() -> None:
    wrong = Contestant(
        "wrong", lambda: lambda x, y: blocked.multi_similarity(x, y) + 1e-3 * x.square().mean()
    )
    assert not check_agreement([wrong], "cpu", samples=96, width=24)["wrong"].agrees


def test_blocked_is_exact_in_float64_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blocked.BLOCK_ELEMENTS, "cpu", 16 * 200)
    contestants = [Contestant("blocked", lambda: blocked.multi_similarity)]
    found = check_agreement(contestants, "cpu", "float64", samples=200, width=24)["blocked"]
    assert found.agrees, f"loss off by {found.loss_error}, gradient by {found.gradient_error}"


def test_retrieval_contestants_agree() -> None:
    assert check_retrieval("cpu", 400, 12) == {}
    assert check_retrieval("cpu", 400, 12, uneven=True) == {}


def test_workload_repeats_and_shuffles_classes() -> None:
    first, labels = Workload(64, 8).make()
    again, same_labels = Workload(64, 8).make()
    assert torch.equal(first, again)
    assert torch.equal(labels, same_labels)
    assert labels.bincount().tolist() == [PER_CLASS] * 8
    assert not torch.equal(labels, labels.sort().values)


class CountedTurn(Turn):
    """Takes no time, says what it is told, and writes down when it ran."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def step(self) -> Clocked:
        self.diary.append(self.name)
        return {"both": 0.25}


def test_interleaving_rotates_and_keeps_every_round() -> None:
    diary: list[str] = []
    protocol = Protocol(least_rounds=3, most_rounds=3, turn=0.0)
    outcomes = interleave({name: lambda name=name: CountedTurn(name, diary) for name in "abc"}, protocol)
    assert "".join(diary[-9:]) == "abcbcacab"
    assert [outcome.seconds["both"] for outcome in outcomes.values()] == [[0.25] * 3] * 3
    assert rotated([], 4) == []


def test_a_failing_contestant_becomes_a_status_and_the_others_go_on() -> None:
    class Failing(CountedTurn):
        def step(self) -> Clocked:
            if self.name == "late" and len(self.diary) < 8:
                return super().step()
            raise torch.OutOfMemoryError("no memory") if self.name == "big" else ValueError("wrong\nshape")

    diary: list[str] = []
    makers = {name: lambda name=name: Failing(name, diary) for name in ("big", "odd", "late")}
    makers["good"] = lambda: CountedTurn("good", diary)
    outcomes = interleave(makers, Protocol(least_rounds=9, most_rounds=9, turn=0.0))
    assert outcomes["big"].status == "out of memory"
    assert outcomes["odd"].status == "error: ValueError: wrong"
    assert outcomes["late"].status.startswith("error")
    assert outcomes["late"].seconds == {}
    assert len(outcomes["good"].seconds["both"]) == 9


def test_quantiles_and_rounds() -> None:
    assert quantiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx((2.0, 3.5, 5.0))
    assert quantiles([7.0]) == (7.0, 7.0, 7.0)
    protocol = Protocol()
    assert (protocol.rounds(1e-3), protocol.rounds(0.9), protocol.rounds(12.5)) == (25, 5, 3)


def test_recorded_clock_replays_samples_to_pytest_benchmark() -> None:
    clock, seen = RecordedClock(), []

    class Benchmark:
        def pedantic(self, target: Any, rounds: int) -> None:
            for _ in range(rounds):
                start = clock()
                target()
                seen.append(clock() - start)

    clock.replay(Benchmark(), [0.5, 0.125, 2.0])
    assert seen == [0.5, 0.125, 2.0]


def test_results_survive_the_file_and_a_partial_run_keeps_the_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "device" / "pair_multi_similarity.json"
    first = results(row("fastdml-cpu", 4.0), row("pml", 100.0), row("pml", None, 8192))
    first.save(path)
    loaded = Results.load(path, "pair_multi_similarity")
    assert loaded.rows == first.rows
    assert loaded.runs == first.runs

    header = {**HEADER, "date": "2026-02-02T00:00:00+00:00"}
    loaded.merge("third", header, [row("fastdml-cpu", 3.0, run="third")])
    loaded.save(path)
    merged = Results.load(path, "pair_multi_similarity")
    found = merged.find("time", "both", Size(1024, 128, "float32"))
    assert found["fastdml-cpu"].p50 == 3.0
    assert found["pml"].p50 == 100.0
    assert set(merged.runs) == {"first", "third"}  # no row is left of the second
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert "2026-02-02" in merged.to_csv()
    with pytest.raises(ValueError, match="must hold contest"):
        Results.load(path, "retrieval_evaluate")


def test_a_sweep_writes_rows_for_who_runs_and_for_who_does_not(tmp_path: Path) -> None:
    path = tmp_path / "pair_multi_similarity.json"
    contestants = [
        Contestant("blocked", lambda: blocked.multi_similarity),
        Contestant("pml", lambda: blocked.multi_similarity, absent="not installed"),
        Contestant("dense", lambda: blocked.multi_similarity, largest_on_cpu=32),
        Contestant("compiled", lambda: blocked.multi_similarity),
    ]
    sweep = Sweep("pair_multi_similarity", "cpu", contestants, {"compiled": "loss"}, [], TINY, path)
    work = Workload(64, 8)
    sweep.times(work, [contestant.name for contestant in contestants])
    found = Results.load(path, "pair_multi_similarity").find("time", "backward", work.size)
    assert found["blocked"].p50 is not None
    assert found["blocked"].p50 > 0
    assert found["pml"].status == "absent: not installed"
    assert found["dense"].status == "skipped: too slow above N = 32 on a CPU"
    assert found["compiled"].status == "disagrees: loss"
    assert sweep.peak(work, "pml").bytes is None


@pytest.mark.parametrize("commit", ["c0ffee", "c0ffee+"])
def test_a_sweep_goes_on_where_it_was_unless_the_code_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str
) -> None:
    monkeypatch.setenv("FASTDML_COMMIT", commit)
    path, work = tmp_path / "pair_multi_similarity.json", Workload(64, 8)
    contestants = [Contestant("blocked", lambda: blocked.multi_similarity)]

    def sweep() -> Sweep:
        return Sweep("pair_multi_similarity", "cpu", contestants, {}, [], TINY, path, resumes=True)

    first = sweep()
    assert first.times(work, ["blocked"])["blocked"].status == "ok"
    assert sweep().times(work, ["blocked"])["blocked"].status == "ok"  # timed, but not weighed
    assert first.peak(work, "blocked").bytes is not None
    second = sweep()
    changed = commit.endswith("+")
    assert second.times(work, ["blocked"])["blocked"].status == ("ok" if changed else HELD)
    assert (second.peak(work, "blocked").status == HELD) != changed
    rows = Results.load(path, "pair_multi_similarity").find("time", "both", work.size)
    assert rows["blocked"].p50 is not None


def test_defeats_are_computed_from_rows_of_one_run() -> None:
    held = results(
        row("fastdml-cpu", 4.0),
        row("compiled", 3.0),
        row("pml", 3.99),  # as fast, within the spread
        row("blocked", 1.0, run="second"),  # not measured in turns with it
        row("fastdml-cpu", 5.0, 2048),
        row("compiled", 50.0, 2048),
        row("dense", None, 2048),
        row("fastdml-cpu", 6.0, metric="memory", unit="MB"),
        row("blocked", 5.5, metric="memory", unit="MB"),  # less than the resolution apart
    )
    found = defeats(held)
    assert [(defeat.rival, defeat.size.samples, defeat.ratio) for defeat in found] == [
        ("compiled", 1024, 0.75)
    ]
    assert tell_defeats(held) == [
        "torch.compile is faster than fastdml at N = 1,024 (both, D = 128, float32; at most 1.3 times).",
        "At no size measured was any of the others smaller in memory.",
    ]


def test_targets_are_reached_missed_or_not_measured() -> None:
    held = results(
        row("fastdml-cpu", 1.0),
        row("pml", 17.0),
        row("fastdml-cpu", 10.0, 4096),
        row("pml", 100.0, 4096),
        row("fastdml-cpu", 100.0, 8192),
        row("pml", 9000.0, 8192, run="second"),
        row("fastdml-cpu", 60.0, 2048, D=512),
        row("fastdml-cpu", 30.0, 16384, metric="memory", unit="MB"),
        row("fastdml-cpu", 140.0, 65536, metric="memory", unit="MB"),
    )
    verdicts = {target.what: (target.verdict, target.found) for target in check_targets(held)}
    assert verdicts["speed against pml at N 1,024, D 128, float32"] == ("reached", "17 x")
    assert verdicts["speed against pml at N 4,096, D 128, float32"] == ("MISSED", "10 x")
    assert verdicts["speed against pml at N 8,192, D 128, float32"][0] == "not measured"
    assert verdicts["memory beyond inputs and gradient at N 16,384, D 128, float32"][0] == "reached"
    assert verdicts["memory grows linearly from N 16,384, D 128, float32 to 65,536"] == ("MISSED", "4.67 x")
    rate = verdicts["6 N^2 D over the measured sgemm rate at N 2,048, D 512, float32"]
    assert rate == ("reached", "215% (214.7 of 100 GFLOP/s)")


def test_the_readme_part_replaces_what_stands_between_the_markers() -> None:
    held = results(
        row("fastdml-cpu", 0.25), row("pml", 12.0), row("pml", None, 8192), row("fastdml-cpu", 250.0, 8192)
    )
    part = readme_part([("a-machine", held)], "docs/figures")
    text = replace_between(f"head\n{START}\nold\n{END}\ntail\n", part)
    assert text.startswith(f"head\n{START}\n**Multi-Similarity")
    assert text.endswith(f"{END}\ntail\n")
    assert "old" not in text
    assert "| 1,024 | 250 µs | 12.0 ms | 48 x |" in text
    assert "| 8,192 | 250 ms | out of memory |  |" in text
    assert 'srcset="docs/figures/a-machine-pair_multi_similarity-time-dark.svg"' in text
    assert "0123456789" in text
    assert replace_between(text, part) == text
    for broken in ("no markers", f"{END}{START}", f"{START}{START}{END}"):
        with pytest.raises(ValueError, match="must hold"):
            replace_between(broken, part)


def test_tables_name_every_contestant_and_read_well() -> None:
    held = results(row("pml", 12.0), row("fastdml-triton", 1.0), row("fastdml-cuda", 2.0))
    assert grid(held, "time", "both", 128, "float32") == [
        ["N", "fastdml", "fastdml, CUDA C++", "PML", "fastdml against PML"],
        ["1,024", "1.00 ms", "2.00 ms", "12.0 ms", "12 x"],
    ]
    assert [amount(value, "ms") for value in (0.0451, 9.996, 99.96, 999.6, 12500)] == [
        "45.1 µs",
        "10.0 ms",
        "100 ms",
        "1.00 s",
        "12.5 s",
    ]
    assert amount(3400, "MB") == "3.40 GB"


def test_figures_are_drawn_for_both_themes(tmp_path: Path) -> None:
    draw = pytest.importorskip("bench.figures", exc_type=ImportError).draw
    rows = [row("fastdml-cpu", 1.0), row("fastdml-cpu", 4.0, 2048), row("pml", 9.0), row("pml", None, 2048)]
    for theme in ("light", "dark"):
        draw(rows, "time", theme, tmp_path / f"{theme}.svg")
    light, dark = ((tmp_path / f"{theme}.svg").read_text() for theme in ("light", "dark"))
    assert light != dark
    assert light.rstrip().endswith("</svg>")
    draw(rows, "time", "light", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == light


def test_sanitizer_logs_are_told_apart() -> None:
    kernels = {"pair_negatives_kernel", "losses_kernel"}
    clean = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    assert read_log(clean, kernels).status == "passed"
    bad = (
        "========= Invalid __global__ read of size 4 bytes\n"
        "=========     at void fastdml::cuda::losses_kernel<float>(int)+0x90\n"
        "=========     Host Frame: pair_negatives_kernel\n"
        "========= ERROR SUMMARY: 3 errors\n"
    )
    assert read_log(bad, kernels) == replace(read_log(bad, kernels), errors=3, ours=("losses_kernel",))
    assert read_log(bad, kernels).status == "FAILED"
    assert read_log(bad.replace("losses_kernel", "theirs"), kernels).status == "passed"
    assert read_log("killed", kernels).status == "FAILED"


def test_the_sources_kernels_are_found() -> None:
    assert "pair_negatives_kernel" in own_kernels("triton")
    assert "negative_statistics_kernel" in own_kernels("cuda")


def test_stored_results_are_whole() -> None:
    folder = Path(__file__).resolve().parents[2] / "bench" / "results"
    for path in folder.glob("*/*.json"):
        content = json.loads(path.read_text())
        if content["contest"] in CONTESTS:
            stored = Results.load(path, content["contest"])
            assert stored.rows
            for entry in stored.rows:
                assert entry.run in stored.runs
                assert (entry.p50 is None) == (entry.status != "ok"), entry
