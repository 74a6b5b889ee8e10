"""A contest, size by size: times all who take part, weighs them, and keeps the results file current."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine, memory
from bench.ceilings import Ceiling
from bench.contests import CONTESTS
from bench.interleaved import Outcome, Protocol, interleave, quantiles
from bench.memory import Peak
from bench.peers import Contestant
from bench.results import Results, Row, same_code
from bench.turns import CallTurn, TrainingTurn, Turn
from bench.workload import DESCRIPTION, Workload

MILLISECONDS, MEGABYTES = 1e3, 1e-6
HELD = "held already"


class Sweep:
    """Measures one size at a time and merges its rows into the results file at once: a cut-off run counts.

    Args:
        contest: one of ``CONTESTS``, which is also the name of its results file.
        contestants: all of them; those that cannot run get a row that says so.
        wrong: contestants that computed something else, and how far off they were: never timed.
        ceilings: rates of the device, sampled once for every size.
        path: the results file, or None: nothing is written.
        longest: seconds a step beyond which a contestant is not tried, foreseen from the sizes before.
        quick: the largest N, in a short run, for contestants that hold all N^2 pairs.
        resumes: whether what the file holds of this very commit and device is not measured again.
    """

    def __init__(
        self,
        contest: str,
        device: str,
        contestants: Sequence[Contestant],
        wrong: dict[str, str],
        ceilings: Sequence[Ceiling],
        protocol: Protocol,
        path: Path | None,
        longest: float = float("inf"),
        quick: int | None = None,
        resumes: bool = False,
    ) -> None:
        self.contest, self.device = contest, device
        self.directions, self.whole = CONTESTS[contest].directions, CONTESTS[contest].whole
        self.contestants = {contestant.name: contestant for contestant in contestants}
        self.wrong, self.ceilings, self.protocol = wrong, ceilings, protocol
        self.path, self.longest, self.quick = path, longest, quick
        self.header = {
            **machine.describe(device),
            "protocol": str(protocol),
            "batches": DESCRIPTION,
            "memory": memory.DESCRIPTION,
            "ceilings": {},
        }
        self.run = machine.run_name(self.header)
        self.results = Results(contest, {self.run: self.header}, [])
        self.resumes = resumes
        if resumes and path is not None and path.exists():
            self.take_in(Results.load(path, contest))
        self._outcomes: dict[Workload, dict[str, Outcome]] = {}
        self._peaks: dict[tuple[Workload, str], Peak] = {}

    def times(self, work: Workload, names: Sequence[str]) -> dict[str, Outcome]:
        """Times ``names`` against each other at one size; the first call measures, later ones remember."""
        if work not in self._outcomes and self.resumes and self.knows(work, names):
            self._outcomes[work] = {name: Outcome(HELD) for name in names}
        if work not in self._outcomes:
            for ceiling in self.ceilings:
                ceiling.sample()
            self.header["ceilings"] = {ceiling.name: ceiling.to_dict() for ceiling in self.ceilings}
            outcomes = {name: Outcome(why) for name in names if (why := self._refusal(name, work))}
            makers = {name: self._maker(name, work) for name in names if name not in outcomes}
            outcomes.update(interleave(makers, self.protocol))
            self._outcomes[work] = {name: outcomes[name] for name in names}
            self._keep([self._time_row(n, d, work, outcomes[n]) for n in names for d in self.directions])
        return self._outcomes[work]

    def peak(self, work: Workload, name: str) -> Peak:
        """Peak memory of one contestant at one size."""
        key = (work, name)
        if self._outcomes.get(work, {}).get(name, Outcome()).status == HELD:
            return Peak(None, status=HELD)
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

    def add_times(self, work: Workload, direction: str, outcomes: Mapping[str, Outcome]) -> None:
        """Rows of a direction that was timed elsewhere."""
        self._keep([self._time_row(name, direction, work, outcome) for name, outcome in outcomes.items()])

    def take_in(self, stored: Results) -> None:
        """Starts from rows of earlier runs."""
        for run, header in stored.runs.items():
            self.results.merge(run, header, [row for row in stored.rows if row.run == run])
        self.results.merge(self.run, self.header, [])

    def knows(self, work: Workload, names: Sequence[str]) -> bool:
        """Whether runs of this very commit and device timed and weighed all of ``names`` at this size."""
        rows, weighed = (self.results.find(what, self.whole, work.size) for what in ("time", "memory"))
        return all(
            name in rows
            and (name in weighed or rows[name].status != "ok")
            and same_code(self.results.runs[rows[name].run], self.header)
            for name in names
        )

    def foreseen_seconds(self, work: Workload, names: Sequence[str]) -> float:
        """About how long this size will take, from the sizes before it; 0 where there are none."""
        steps = sum(self._foreseen_step(name, work) for name in names if self._refusal(name, work) is None)
        return steps * (self.protocol.slow_rounds + 3)

    def _foreseen_step(self, name: str, work: Workload) -> float:
        before = self._largest_before(name, work)
        if before is None or before.p50 is None:
            return 0.0
        return before.p50 / MILLISECONDS * (work.samples / before.N) ** 2

    def _largest_before(self, name: str, work: Workload) -> Row | None:
        smaller = [
            row
            for row in self.results.rows
            if (row.provider, row.metric, row.direction) == (name, "time", self.whole)
            and (row.dtype, row.D) == (work.dtype, work.width)
            and work.samples > row.N
        ]
        return max(smaller, key=lambda row: row.N, default=None)

    def _refusal(self, name: str, work: Workload) -> str | None:
        if name in self.wrong:
            return f"disagrees: {self.wrong[name]}"
        before = self._largest_before(name, work)
        if before is not None and before.status.startswith("out of memory"):
            return before.status if ":" in before.status else f"out of memory: already at N = {before.N}"
        if before is not None and before.status.startswith("skipped: too slow"):
            return before.status
        step = self._foreseen_step(name, work)
        if step > self.longest:
            return f"skipped: too slow, from N = {work.samples} on about {step:.0f} s a step"
        contestant = self.contestants[name]
        why = contestant.refuses(work, memory.free_memory())
        holds_pairs = contestant.bytes_a_pair or contestant.bytes_a_cube
        if why is None and self.quick is not None and holds_pairs and work.samples > self.quick:
            return f"skipped: holds all pairs, above N = {self.quick} only in a full run"
        return why

    def _maker(self, name: str, work: Workload) -> Callable[[], Turn]:
        contestant = self.contestants[name]

        def make() -> Turn:
            if self.whole == "evaluate":
                return CallTurn(contestant.make(), work.make(requires_grad=False))
            turn = TrainingTurn(contestant.make(), work.make())
            if contestant.compiles:
                turn.step()
            return turn

        return make

    def _time_row(self, name: str, direction: str, work: Workload, outcome: Outcome) -> Row:
        figures: dict[str, Any] = {"status": outcome.status}
        samples = outcome.seconds.get(direction)
        if samples:
            low, middle, high = (_rounded(value * MILLISECONDS) for value in quantiles(samples))
            figures = {"p20": low, "p50": middle, "p80": high, "rounds": len(samples)}
        return self._row(name, direction, "time", work, "ms", figures)

    def _memory_row(self, name: str, work: Workload, peak: Peak) -> Row:
        figures: dict[str, Any] = {"status": peak.status}
        if peak.bytes is not None:
            value = _rounded(peak.bytes * MEGABYTES)
            figures = {"p20": value, "p50": value, "p80": value, "rounds": 1}
            if self.device == "cpu":
                floors = self.header.setdefault("memory_floor_mb", {})
                floors[name] = max(floors.get(name, 0.0), _rounded(peak.floor * MEGABYTES))
        return self._row(name, self.whole, "memory", work, "MB", figures)

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
            stored.merge(self.run, self.header, [row for row in self.results.rows if row.run == self.run])
            stored.save(self.path)


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
