"""Turns results files into the README's tables and figures: ``python -m bench.report``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.results import FOLDER, Results, Row, write_whole
from bench.tables import blocks, grid, markdown, plain, tell_defeats
from bench.targets import check_targets

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
CONTESTS = {
    "pair_multi_similarity": ("Multi-Similarity with mining, forward and backward of one batch", "both"),
    "retrieval_evaluate": ("Recall@1, 10, 100, 1000 and MAP@R of a set against itself", "evaluate"),
}
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
    direction = CONTESTS[results.contest][1]
    lines: list[str] = []
    for metric, what in METRICS.items():
        for dtype, width in blocks(results, metric, direction):
            lines += [f"{what}, {direction}, D = {width}, {dtype}, medians"]
            lines += ["  " + line for line in plain(grid(results, metric, direction, width, dtype))] + [""]
    for name, rate in newest(results).get("ceilings", {}).items():
        lines.append(
            f"{name}: {rate['p50']:.4g} {rate['unit']} (p20 {rate['p20']:.4g}, p80 {rate['p80']:.4g})"
        )
    lines += [*tell_defeats(results), ""]
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
        what, direction = CONTESTS[results.contest]
        tables = blocks(results, "time", direction)
        if not tables:
            continue
        dtype, width = tables[0]
        lines += [f"**{what}**, D = {width}, {_plain_dtype(dtype)}, on {newest(results)['device']}.", ""]
        lines += _pictures(f"{figures}/{slug}-{results.contest}", what)
        lines += [*markdown(grid(results, "time", direction, width, dtype)), ""]
        if (dtype, width) in blocks(results, "memory", direction):
            lines += [f"{METRICS['memory'].capitalize()}:", ""]
            lines += [*markdown(grid(results, "memory", direction, width, dtype)), ""]
        lines += ["Where fastdml loses: " + " ".join(tell_defeats(results)), ""]
        lines += _rest(results, direction, tables[1:])
        lines += [_provenance(results, slug), ""]
    return "\n".join(lines).strip()


def replace_between(text: str, part: str) -> str:
    """``text`` with what stands between the markers replaced.

    Raises:
        ValueError: the markers are not there exactly once, in order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the file must hold {START} and, after it, {END}, once each")
    before, rest = text.split(START)
    return f"{before}{START}\n{part}\n{END}{rest.split(END)[1]}"


def _pictures(stem: str, what: str) -> list[str]:
    lines = []
    for metric, shown in METRICS.items():
        lines += [
            "<picture>",
            f'  <source media="(prefers-color-scheme: dark)" srcset="{stem}-{metric}-dark.svg">',
            f'  <img alt="{what}: {shown} over N" src="{stem}-{metric}-light.svg">',
            "</picture>",
        ]
    return [*lines, ""]


def _rest(results: Results, direction: str, others: Sequence[tuple[str, int]]) -> list[str]:
    lines: list[str] = []
    for dtype, width in others:
        lines += [f"D = {width}, {_plain_dtype(dtype)}:", ""]
        lines += [*markdown(grid(results, "time", direction, width, dtype)), ""]
    if not lines:
        return []
    return ["<details><summary>Other sizes</summary>", "", *lines, "</details>", ""]


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
    from bench.figures import draw

    for slug, results in entries:
        direction = CONTESTS[results.contest][1]
        for metric in METRICS:
            rows = _figure_rows(results, metric, direction)
            for theme in ("light", "dark"):
                draw(rows, metric, theme, options.figures / f"{slug}-{results.contest}-{metric}-{theme}.svg")
    part = readme_part(entries, machine.shown_from(options.figures, options.readme.parent))
    write_whole(options.readme, replace_between(options.readme.read_text(), part))
    print(f"written: {machine.shown(options.readme)}, {machine.shown(options.figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
