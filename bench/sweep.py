"""A contest, size by size: times all who take part, weighs them, and keeps the results file current."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import machine, memory
from bench.ceilings import Ceiling
from bench.interleaved import Outcome, Protocol, interleave, quantiles
from bench.memory import Peak
from bench.peers import Contestant
from bench.results import Results, Row
from bench.turns import CallTurn, TrainingTurn, Turn
from bench.workload import DESCRIPTION, Workload

DIRECTIONS = {"pair": ("forward", "backward", "both"), "retrieval": ("evaluate",)}
MILLISECONDS, MEGABYTES = 1e3, 1e-6


class Sweep:
    """Measures one size at a time and merges its rows into the results file at once: a cut-off run counts.

    Args:
        contest: "pair" or "retrieval".
        loss: the results file's name after the contest's: "multi_similarity", "recall_at_k".
        contestants: all of them; those that cannot run get a row that says so.
        wrong: contestants that computed something else, and how far off they were: never timed.
        ceilings: rates of the device, sampled once for every size.
        path: the results file, or None: nothing is written.
    """

    def __init__(
        self,
        contest: str,
        loss: str,
        device: str,
        contestants: Sequence[Contestant],
        wrong: dict[str, str],
        ceilings: Sequence[Ceiling],
        protocol: Protocol,
        path: Path | None,
    ) -> None:
        self.contest, self.device = contest, device
        self.contestants = {contestant.name: contestant for contestant in contestants}
        self.wrong, self.ceilings, self.protocol = wrong, ceilings, protocol
        self.path = path
        self.header = {
            **machine.describe(device),
            "protocol": str(protocol),
            "batches": DESCRIPTION,
            "memory": memory.DESCRIPTION,
            "ceilings": {},
        }
        self.run = machine.run_name(self.header)
        self.results = Results(f"{contest}_{loss}", {self.run: self.header}, [])
        self._outcomes: dict[Workload, dict[str, Outcome]] = {}
        self._peaks: dict[tuple[Workload, str], Peak] = {}

    def times(self, work: Workload, names: Sequence[str]) -> dict[str, Outcome]:
        """Times ``names`` against each other at one size; the first call measures, later ones remember."""
        if work not in self._outcomes:
            for ceiling in self.ceilings:
                ceiling.sample()
            self.header["ceilings"] = {ceiling.name: ceiling.to_dict() for ceiling in self.ceilings}
            outcomes = {name: Outcome(why) for name in names if (why := self._refusal(name, work))}
            makers = {name: self._maker(name, work) for name in names if name not in outcomes}
            outcomes.update(interleave(makers, self.protocol))
            self._outcomes[work] = {name: outcomes[name] for name in names}
            self._keep([row for name in names for row in self._time_rows(name, work, outcomes[name])])
        return self._outcomes[work]

    def peak(self, work: Workload, name: str) -> Peak:
        """Peak memory of one contestant at one size."""
        key = (work, name)
        if key not in self._peaks:
            why = self._refusal(name, work)
            peak = (
                Peak(None, status=why)
                if why
                else memory.measure_peak(self.contestants[name], self.contest, work)
            )
            self._peaks[key] = peak
            self._keep([self._memory_row(name, work, peak)])
        return self._peaks[key]

    def _refusal(self, name: str, work: Workload) -> str | None:
        if name in self.wrong:
            return f"disagrees: {self.wrong[name]}"
        return self.contestants[name].refuses(work, memory.free_memory())

    def _maker(self, name: str, work: Workload) -> Callable[[], Turn]:
        contestant = self.contestants[name]
        if self.contest == "retrieval":
            return lambda: CallTurn(contestant.make(), work.make(requires_grad=False))
        return lambda: TrainingTurn(contestant.make(), work.make())

    def _time_rows(self, name: str, work: Workload, outcome: Outcome) -> list[Row]:
        rows = []
        for direction in DIRECTIONS[self.contest]:
            figures: dict[str, Any] = {"status": outcome.status}
            samples = outcome.seconds.get(direction)
            if samples:
                low, middle, high = (_rounded(value * MILLISECONDS) for value in quantiles(samples))
                figures = {"p20": low, "p50": middle, "p80": high, "rounds": len(samples)}
            rows.append(self._row(name, direction, "time", work, "ms", figures))
        return rows

    def _memory_row(self, name: str, work: Workload, peak: Peak) -> Row:
        figures: dict[str, Any] = {"status": peak.status}
        if peak.bytes is not None:
            value = _rounded(peak.bytes * MEGABYTES)
            figures = {"p20": value, "p50": value, "p80": value, "rounds": 1}
            if self.device == "cpu":
                floors = self.header.setdefault("memory_floor_mb", {})
                floors[name] = max(floors.get(name, 0.0), _rounded(peak.floor * MEGABYTES))
        return self._row(name, DIRECTIONS[self.contest][-1], "memory", work, "MB", figures)

    def _row(
        self, name: str, direction: str, metric: str, work: Workload, unit: str, figures: dict[str, Any]
    ) -> Row:
        return Row(
            provider=name,
            direction=direction,
            metric=metric,
            N=work.samples,
            D=work.width,
            dtype=work.dtype,
            unit=unit,
            run=self.run,
            **figures,
        )

    def _keep(self, rows: Sequence[Row]) -> None:
        self.results.merge(self.run, self.header, rows)
        if self.path is not None:
            stored = Results.load(self.path, self.results.contest)
            stored.merge(self.run, self.header, self.results.rows)
            stored.save(self.path)


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
