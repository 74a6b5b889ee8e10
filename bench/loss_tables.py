"""What the rows of all losses say: a row of a table for every loss, and who is faster at which."""

from __future__ import annotations

from dataclasses import replace

from bench.loss_peers import LOSSES
from bench.proxy_peers import LOSSES as PROXY_LOSSES
from bench.results import Results, Row, Size
from bench.tables import BETTER, NAMES, advantage, any_compared, cell, comparable, nowhere, tell_defeats_in

LIBRARIES = ("fastdml", "pml")


def by_loss(results: Results) -> dict[str, Results]:
    """The rows of every loss by themselves, with the library as their provider."""
    found: dict[str, list[Row]] = {name: [] for name in (*LOSSES, *PROXY_LOSSES)}
    for row in results.rows:
        loss, library = row.provider.rsplit("/", 1)
        found.setdefault(loss, []).append(replace(row, provider=library))
    return {loss: Results(results.contest, results.runs, rows) for loss, rows in found.items() if rows}


def loss_sizes(results: Results, direction: str) -> list[Size]:
    """The sizes that have times, first the one to show first: the largest with a figure of both libraries."""
    views = by_loss(results).values()

    def has_both(size: Size) -> bool:
        return any(
            all(name in rows and rows[name].p50 is not None for name in LIBRARIES)
            and comparable(rows["fastdml"], rows["pml"])
            for rows in (view.find("time", direction, size) for view in views)
        )

    sizes = results.sizes("time", direction)
    first = max(filter(has_both, sizes), key=lambda size: size.samples, default=None)
    return sorted(sizes, key=lambda size: (size != first, size))


def loss_grid(results: Results, direction: str, size: Size) -> list[list[str]]:
    """The table of one size, its head first: times, their ratio, and peak memory where it was measured."""
    weighed = bool(results.find("memory", direction, size))
    head = ["loss", *(NAMES[library] for library in LIBRARIES), "fastdml against PML"]
    table = [head + [f"{NAMES[library]}, memory" for library in LIBRARIES] if weighed else head]
    for loss, view in by_loss(results).items():
        rows = view.find("time", direction, size)
        if not rows:
            continue
        line = [loss, *(cell(rows.get(library)) for library in LIBRARIES), advantage(rows, "pml")]
        if weighed:
            memory = view.find("memory", direction, size)
            line += [cell(memory.get(library)) for library in LIBRARIES]
        table.append(line)
    return table


def tell_loss_defeats(results: Results) -> list[str]:
    """Sentences that say at which losses fastdml loses, or that it does at none."""
    sentences = []
    views = by_loss(results)
    for metric, better in BETTER.items():
        found = [
            sentence
            for loss, view in views.items()
            for sentence in tell_defeats_in(view, metric, better, f"fastdml's {loss}")
        ]
        if not found and any(any_compared(view, metric) for view in views.values()):
            found = [nowhere(better)]
        sentences += found
    return sentences
