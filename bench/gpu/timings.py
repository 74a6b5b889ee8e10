"""Rows of an experiment of a few contestants in turn, merged into a results file size by size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench import machine
from bench.contests import BOTH_WAYS
from bench.interleaved import Protocol, interleave, quantiles
from bench.results import Results, Row, same_code
from bench.turns import Turn
from bench.workload import DESCRIPTION, Workload


class Timings:
    """Times of forward and backward.

    Args:
        name: of the experiment; the results file is called like it.
        device: "cuda" or "cpu".
        protocol: how often.
        path: the results file, which is gone on with.
    """

    def __init__(self, name: str, device: str, protocol: Protocol, path: Path) -> None:
        self.protocol, self.path = protocol, path
        self.results = Results.load(path, name)
        self.header = {**machine.describe(device), "protocol": str(protocol), "batches": DESCRIPTION}
        self.run = machine.run_name(self.header)

    def measure(self, work: Workload, makers: Mapping[str, Callable[[], Turn]]) -> dict[str, float | None]:
        """Times all against each other, prints and keeps it.

        Returns:
            Median milliseconds of forward and backward; None where the row says why there are none.
        """
        held = self._held(work)
        if makers.keys() <= held.keys():
            print(f"{work}: held already", flush=True)
            return {name: held[name].p50 for name in makers}
        outcomes = interleave(makers, self.protocol)
        rows, found = [], {}
        for name, outcome in outcomes.items():
            for direction in BOTH_WAYS:
                row = Row(
                    name, direction, "time", work.samples, work.width, work.dtype, "ms", self.run,
                    status=outcome.status,
                )  # fmt: skip
                samples = outcome.seconds.get(direction)
                if samples:
                    low, middle, high = (float(f"{1e3 * value:.4g}") for value in quantiles(samples))
                    row = replace(row, p20=low, p50=middle, p80=high, rounds=len(samples))
                rows.append(row)
                found[name] = row.p50
        self.results.merge(self.run, self.header, rows)
        self.results.save(self.path)
        for row in rows:
            if row.direction == BOTH_WAYS[-1]:
                print(f"{work}: {row.provider}: {f'{row.p50:g} ms' if row.p50 else row.status}", flush=True)
        return found

    def _held(self, work: Workload) -> dict[str, Row]:
        """Rows of forward and backward at this size by runs of this very commit and device."""
        rows = self.results.find("time", BOTH_WAYS[-1], work.size)
        return {name: row for name, row in rows.items() if same_code(self.results.runs[row.run], self.header)}
