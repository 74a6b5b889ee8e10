"""Turns results files into the README's tables and figures: ``python -m bench.report``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.contests import CONTESTS
from bench.loss_tables import loss_grid, loss_sizes, tell_loss_defeats
from bench.results import FOLDER, Results, Row, Size, write_whole
from bench.tables import blocks, grid, markdown, plain, tell_defeats
from bench.targets import check_targets

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
METRICS = {"time": "time", "memory": "peak memory beyond inputs and gradients"}


def load_all(folder: Path) -> list[tuple[str, Results]]:
    """Every results file as (device slug, results), devices with a GPU first, contests in their order."""
    found = []
    for contest in CONTESTS:
        for path in sorted(folder.glob(f"*/{contest}.json")):
            found.append((path.parent.name, Results.load(path, contest)))
    return sorted(found, key=lambda entry: (newest(entry[1]).get("kind") != "cuda", entry[0]))


def newest(results: Results) -> dict[str, Any]:
    """The header of the latest run."""
    return max(results.runs.values(), key=lambda header: str(header["date"]), default={})


def summary(results: Results) -> list[str]:
    """Tables, defeats and targets for a terminal."""
    lines = _tables_of_losses(results) if CONTESTS[results.contest].by_loss else _tables_of_sizes(results)
    for name, rate in newest(results).get("ceilings", {}).items():
        lines.append(
            f"{name}: {rate['p50']:.4g} {rate['unit']} (p20 {rate['p20']:.4g}, p80 {rate['p80']:.4g})"
        )
    lines += [*_defeats(results), ""]
    targets = check_targets(results)
    if targets:
        table = [["verdict", "target", "wanted", "found"]]
        table += [[target.verdict, target.what, target.wanted, target.found] for target in targets]
        widths = [max(len(line[column]) for line in table) for column in range(4)]
        lines += [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
    return lines


def readme_part(entries: Sequence[tuple[str, Results]], figures: str) -> str:
    """The Markdown between the markers.

    Args:
        figures: the folder of the figures, relative to the README.
    """
    lines: list[str] = []
    for slug, results in entries:
        if not results.sizes("time", CONTESTS[results.contest].whole):
            continue
        part = _part_of_losses if CONTESTS[results.contest].by_loss else _part_of_sizes
        lines += part(results, f"{figures}/{slug}-{results.contest}")
        lines += [_provenance(results, slug), ""]
    return "\n".join(lines).strip()


def _tables_of_sizes(results: Results) -> list[str]:
    direction = CONTESTS[results.contest].whole
    lines: list[str] = []
    for metric, what in METRICS.items():
        for dtype, width in blocks(results, metric, direction):
            lines += [f"{what}, {direction}, D = {width}, {dtype}, medians"]
            lines += ["  " + line for line in plain(grid(results, metric, direction, width, dtype))] + [""]
    return lines


def _tables_of_losses(results: Results) -> list[str]:
    direction = CONTESTS[results.contest].whole
    lines: list[str] = []
    for size in loss_sizes(results, direction):
        lines += [f"{direction}, {_of_size(size)}, medians; memory beyond inputs and gradients"]
        lines += ["  " + line for line in plain(loss_grid(results, direction, size))] + [""]
    return lines


def _part_of_sizes(results: Results, stem: str) -> list[str]:
    """A row for every N."""
    direction = CONTESTS[results.contest].whole
    (dtype, width), *others = blocks(results, "time", direction)
    lines = _heading(results, f"D = {width}, {_plain_dtype(dtype)}")
    lines += _pictures(results, stem, "over N")
    lines += [*markdown(grid(results, "time", direction, width, dtype)), ""]
    if (dtype, width) in blocks(results, "memory", direction):
        lines += [f"{METRICS['memory'].capitalize()}:", ""]
        lines += [*markdown(grid(results, "memory", direction, width, dtype)), ""]
    lines += ["Where fastdml loses: " + " ".join(_defeats(results)), ""]
    return lines + _folded(
        (f"D = {width}, {_plain_dtype(dtype)}", grid(results, "time", direction, width, dtype))
        for dtype, width in others
    )


def _part_of_losses(results: Results, stem: str) -> list[str]:
    """A row for every loss, a table for every N."""
    direction = CONTESTS[results.contest].whole
    first, *others = loss_sizes(results, direction)
    lines = _heading(results, _of_size(first))
    lines += _pictures(results, stem, "of every loss")
    lines += [*markdown(loss_grid(results, direction, first)), ""]
    lines += ["Where fastdml loses: " + " ".join(_defeats(results)), ""]
    return lines + _folded((_of_size(size), loss_grid(results, direction, size)) for size in others)


def _heading(results: Results, where: str) -> list[str]:
    contest = CONTESTS[results.contest]
    return [f"**{contest.title}**, {where}, on {newest(results)['device']}. {contest.note}".rstrip(), ""]


def _defeats(results: Results) -> list[str]:
    return tell_loss_defeats(results) if CONTESTS[results.contest].by_loss else tell_defeats(results)


def _of_size(size: Size) -> str:
    return f"N = {size.samples:,}, D = {size.width}, {_plain_dtype(size.dtype)}"


def replace_between(text: str, part: str) -> str:
    """``text`` with what stands between the markers replaced.

    Raises:
        ValueError: the markers are not there exactly once, in order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the file must hold {START} and, after it, {END}, once each")
    before, rest = text.split(START)
    return f"{before}{START}\n{part}\n{END}{rest.split(END)[1]}"


def _pictured(results: Results) -> list[str]:
    """The metrics that have a figure: one point makes no line."""
    contest = CONTESTS[results.contest]
    found = [metric for metric in METRICS if results.sizes(metric, contest.whole)]
    return found if contest.by_loss or len(results.sizes("time", contest.whole)) > 1 else []


def _pictures(results: Results, stem: str, over: str) -> list[str]:
    lines = []
    for metric in _pictured(results):
        title = CONTESTS[results.contest].title
        lines += [
            "<picture>",
            f'  <source media="(prefers-color-scheme: dark)" srcset="{stem}-{metric}-dark.svg">',
            f'  <img alt="{title}: {METRICS[metric]} {over}" src="{stem}-{metric}-light.svg">',
            "</picture>",
        ]
    return [*lines, ""] if lines else []


def _folded(tables: Iterable[tuple[str, list[list[str]]]]) -> list[str]:
    """Further tables, which a click opens."""
    lines = [line for title, table in tables for line in (f"{title}:", "", *markdown(table), "")]
    return ["<details><summary>Other sizes</summary>", "", *lines, "</details>", ""] if lines else []


def _provenance(results: Results, slug: str) -> str:
    used = {row.run for row in results.rows}
    headers = sorted((results.runs[name] for name in used), key=lambda header: str(header["date"]))
    file = f"bench/results/{slug}/{results.contest}.json"
    runs = "; ".join(_versions(header) for header in headers)
    return (
        f"<sub>Medians; {newest(results)['protocol']}. {runs}. "
        f"All rows, with p20 and p80: [{file}]({file}).</sub>"
    )


def _versions(header: dict[str, Any]) -> str:
    changed = " with changes" if header["dirty"] else ""
    named = [f"fastdml {header['fastdml']} at {header['commit'][:10]}{changed}"]
    for name, key in (("torch", "torch"), ("Triton", "triton"), ("PML", "pml"), ("faiss-cpu", "faiss")):
        if header.get(key):
            named.append(f"{name} {header[key]}")
    return f"{', '.join(named)}, {str(header['date'])[:10]}"


def _plain_dtype(dtype: str) -> str:
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(dtype, dtype)


def _draw_all(results: Results, stem: str, folder: Path) -> None:
    from bench.figures import draw
    from bench.loss_figures import draw_losses

    direction = CONTESTS[results.contest].whole
    for metric in _pictured(results):
        for theme in ("light", "dark"):
            path = folder / f"{stem}-{metric}-{theme}.svg"
            if CONTESTS[results.contest].by_loss:
                draw_losses(results, metric, loss_sizes(results, direction)[0], theme, path)
            else:
                draw(_figure_rows(results, metric, direction), metric, theme, path)


def _figure_rows(results: Results, metric: str, direction: str) -> list[Row]:
    block = next(iter(blocks(results, "time", direction)), None)
    return [
        row
        for row in results.rows
        if (row.metric, row.direction) == (metric, direction) and (row.dtype, row.D) == block
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figures, rewrites the README's part and prints the check of the targets."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results files")
    parser.add_argument("--readme", type=Path, default=machine.ROOT / "README.md")
    parser.add_argument("--figures", type=Path, default=machine.ROOT / "docs" / "figures")
    parser.add_argument(
        "--print", action="store_true", help="print the tables and targets only; write nothing"
    )
    options = parser.parse_args(arguments)
    entries = load_all(options.results)
    if not entries:
        print(
            f"no results under {machine.shown(options.results)}: run pytest bench --benchmark-only first",
            file=sys.stderr,
        )
        return 1
    for slug, results in entries:
        print(f"== {results.contest} on {slug}", *summary(results), sep="\n")
    if options.print:
        return 0
    for slug, results in entries:
        _draw_all(results, f"{slug}-{results.contest}", options.figures)
    part = readme_part(entries, machine.shown_from(options.figures, options.readme.parent))
    write_whole(options.readme, replace_between(options.readme.read_text(), part))
    print(f"written: {machine.shown(options.readme)}, {machine.shown(options.figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
