"""What the rows of a results file say: who is how fast, and where fastdml loses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.results import Results, Row, Size

OWN = ("fastdml-triton", "fastdml-cuda", "fastdml-cpu", "fastdml")
"""fastdml's providers. The first one present is what a user gets without asking."""
NAMES = {
    "fastdml": "fastdml",
    "fastdml-cpu": "fastdml",
    "fastdml-triton": "fastdml",
    "fastdml-cuda": "fastdml, CUDA C++",
    "compiled": "torch.compile",
    "blocked": "blocked PyTorch",
    "dense": "dense PyTorch",
    "faiss-cpu": "faiss-cpu",
    "pml": "PML",
    "product": "one product",
    "topk": "PyTorch topk",
}
NO_RIVALS = (*OWN, "product")
"""Whose rows are not weighed against fastdml's: its own, and a part of what all have to do."""
BETTER = {"time": "faster", "memory": "smaller in memory"}
SPREAD = 0.02
"""A rival that is at most this much faster is as fast: two runs of one thing differ by more."""
RESOLUTION = 1.0
"""Megabytes: what the resident set of a process cannot tell apart."""


def ours(rows: Mapping[str, Row]) -> Row | None:
    """fastdml's row among those of one size."""
    return next((rows[name] for name in OWN if name in rows), None)


def rivals(rows: Mapping[str, Row]) -> list[Row]:
    """The rows of all others that were measured."""
    return [row for name, row in rows.items() if name not in NO_RIVALS and row.p50 is not None]


def comparable(a: Row, b: Row) -> bool:
    """Whether two figures were taken in one run, in turns."""
    return a.run == b.run


@dataclass(frozen=True)
class Defeat:
    """A size at which a rival needs less than fastdml: ``ratio`` of its figure to fastdml's is below one."""

    metric: str
    direction: str
    size: Size
    rival: str
    ratio: float


def defeats(results: Results, metric: str = "time") -> list[Defeat]:
    """Every size and direction at which some rival is better than fastdml."""
    found = []
    for direction in _directions(results, metric):
        for size in results.sizes(metric, direction):
            rows = results.find(metric, direction, size)
            own = ours(rows)
            if own is None or own.p50 is None or own.p50 == 0:
                continue
            for row in rivals(rows):
                ratio = (row.p50 or 0.0) / own.p50
                if metric == "memory" and own.p50 - (row.p50 or 0.0) < RESOLUTION:
                    continue
                if comparable(own, row) and ratio < 1 - SPREAD:
                    found.append(Defeat(metric, direction, size, row.provider, ratio))
    return found


def tell_defeats(results: Results) -> list[str]:
    """Sentences that say where fastdml loses, worst first, or that it does nowhere."""
    sentences = []
    for metric, better in BETTER.items():
        found = tell_defeats_in(results, metric, better)
        if not found and any_compared(results, metric):
            found = [nowhere(better)]
        sentences += found
    return sentences


def tell_defeats_in(results: Results, metric: str, better: str, own: str = "fastdml") -> list[str]:
    """A sentence for each rival, direction, width and dtype that beats ``own``, worst first."""
    groups: dict[tuple[str, str, int, str], list[Defeat]] = {}
    for defeat in defeats(results, metric):
        key = (defeat.rival, defeat.direction, defeat.size.width, defeat.size.dtype)
        groups.setdefault(key, []).append(defeat)
    sentences = []
    for (rival, direction, width, dtype), group in sorted(
        groups.items(), key=lambda item: min(d.ratio for d in item[1])
    ):
        sizes = ", ".join(f"{defeat.size.samples:,}" for defeat in group)
        worst = min(defeat.ratio for defeat in group)
        sentences.append(
            f"{NAMES.get(rival, rival)} is {better} than {own} at N = {sizes} "
            f"({direction}, D = {width}, {dtype}; at most {1 / max(worst, 1e-3):.2g} times)."
        )
    return sentences


def any_compared(results: Results, metric: str) -> bool:
    """Whether fastdml was measured at all."""
    return any(
        ours(results.find(metric, direction, size))
        for direction in _directions(results, metric)
        for size in results.sizes(metric, direction)
    )


def nowhere(better: str) -> str:
    """What is said where there is no defeat."""
    return f"At no size measured was any of the others {better}."


def grid(results: Results, metric: str, direction: str, width: int, dtype: str) -> list[list[str]]:
    """A table: a row for every N, a column for every provider, the ratio to faiss or PML; its head first."""
    sizes = [size for size in results.sizes(metric, direction) if (size.width, size.dtype) == (width, dtype)]
    found = {size: results.find(metric, direction, size) for size in sizes}
    providers = ordered({name for rows in found.values() for name in rows})
    base = next((name for name in ("faiss-cpu", "pml") if name in providers), None)
    head = ["N", *(NAMES.get(name, name) for name in providers)]
    if base is not None:
        head.append(f"fastdml against {NAMES[base]}")
    table = [head]
    for size, rows in found.items():
        cells = [f"{size.samples:,}", *(cell(rows.get(name)) for name in providers)]
        if base is not None:
            cells.append(advantage(rows, base))
        table.append(cells)
    return table


def ordered(providers: Iterable[str]) -> list[str]:
    """fastdml first, then the others from the strongest kind to the most common."""
    known = [*OWN, *(name for name in NAMES if name not in OWN)]
    return sorted(providers, key=lambda name: (known.index(name) if name in known else len(known), name))


def cell(row: Row | None) -> str:
    """A figure with its unit, or a word for why there is none."""
    if row is None:
        return ""
    if row.p50 is None:
        return short_status(row.status)
    return amount(row.p50, row.unit)


def amount(value: float, unit: str) -> str:
    """Three digits at most, in the unit that reads best."""
    steps = {"ms": (("µs", 1e-3), ("ms", 1.0), ("s", 1e3)), "MB": (("MB", 1.0), ("GB", 1e3))}.get(
        unit, ((unit, 1.0),)
    )
    name, scale = next(((n, s) for n, s in reversed(steps) if value >= 0.9995 * s), steps[0])
    scaled = value / scale
    digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{digits}f} {name}"


def times(ratio: float) -> str:
    """A ratio, three digits at least."""
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.3g} x"


def short_status(status: str) -> str:
    """A word or two for a table."""
    for start, word in (
        ("out of memory", "out of memory"),
        ("absent", "not installed"),
        ("skipped: too slow", "too slow"),
        ("skipped: needs", "does not fit"),
        ("skipped: holds", "not run"),
        ("skipped", "skipped"),
        ("disagrees", "wrong"),
    ):
        if status.startswith(start):
            return word
    return "fails"


def advantage(rows: Mapping[str, Row], base: str) -> str:
    """How many times the figure of ``base`` is fastdml's."""
    own, other = ours(rows), rows.get(base)
    if own is None or other is None or not own.p50 or other.p50 is None:
        return ""
    # A figure that was not taken in turns with the other is no ratio.
    return times(other.p50 / own.p50) if comparable(own, other) else "other run"


def blocks(results: Results, metric: str, direction: str) -> list[tuple[str, int]]:
    """The (dtype, D) for which there is a table, the one to show first first."""
    found = list(dict.fromkeys((size.dtype, size.width) for size in results.sizes(metric, direction)))
    wish = [("bfloat16", 512), ("float32", 128)]
    return sorted(found, key=lambda block: (wish.index(block) if block in wish else len(wish), block))


def plain(table: Sequence[Sequence[str]]) -> list[str]:
    """The table for a terminal."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in table]


def markdown(table: Sequence[Sequence[str]]) -> list[str]:
    """The table for GitHub, figures to the right, names of losses to the left."""
    head, *body = table
    rule = [":---" if title == "loss" else "---:" for title in head]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


def _directions(results: Results, metric: str) -> list[str]:
    return list(dict.fromkeys(row.direction for row in results.rows if row.metric == metric))
