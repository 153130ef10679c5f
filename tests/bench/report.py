"""Results as tables for a terminal and as JSON; measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.targets import TARGETS, Verdict, judge
from tests.bench.timing import Summary

FORMAT = 1


def show_figure(console: Console, title: str, result: Mapping[str, Any]) -> None:
    """One row for each contestant: the median of each measure, with its quartiles."""
    if "failed" in result:
        console.print(f"{title}: failed: {result['failed']}", style="red", markup=False)
        return
    columns = list(dict.fromkeys(what for measures in result["samples"].values() for what in measures))
    state = f", state {result['state_bytes'] / 1e9:.3g} GB" if result["state_bytes"] else ""
    table = Table(title=f"{title}{state}", title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(_heading(column), justify="right")
    for who, measures in result["samples"].items():
        table.add_row(who, *(_cell(what, measures[what]) if what in measures else "" for what in columns))
    console.print(table)
    for who, reason in result["absent"].items():
        console.print(f"  {who}: {reason}", style="yellow", markup=False)
    for note in result["notes"]:
        console.print(f"  {note}", style="dim", markup=False)


def verdicts(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, Verdict]]:
    """Every target for every size that was measured; sizes in the order of the results."""
    sizes = dict.fromkeys(result["size"] for result in results)
    by_size = {size: {each["figure"]: each for each in results if each["size"] == size} for size in sizes}
    return [
        (size, judge(target, by_size[size])) for size in sizes for target in TARGETS if target.figure in by_size[size]
    ]


def show_targets(console: Console, judged: Sequence[tuple[str, Verdict]]) -> None:
    """One row for each target; the ratio is that of the medians, the quartiles those of the pairs."""
    table = Table(title="Targets", title_justify="left", title_style="bold")
    for heading in ("size", "figure", "ratio", "quartiles", "pairs", "target", ""):
        table.add_column(heading, justify="left" if heading in ("size", "figure", "") else "right")
    for size, verdict in judged:
        found, bound = verdict.found, f"≤ {verdict.target.bound:g}"
        if found is None:
            table.add_row(size, verdict.target.says, "", "", "", bound, f"[yellow]{verdict.why[:40]}[/]")
            continue
        spread = f"{found.low:.3f} to {found.high:.3f}"
        word = "[green]met[/]" if verdict.met else "[red]not met[/]"
        table.add_row(size, verdict.target.says, f"{found.median:.3f}", spread, str(found.count), bound, word)
    console.print(table)


def save_json(
    path: Path, facts: Mapping[str, Any], results: Sequence[Mapping[str, Any]], judged: Sequence[tuple[str, Verdict]]
) -> None:
    """Every sample, the machine, and how each target stands."""
    targets = [
        {
            "size": size,
            "figure": verdict.target.figure,
            "says": verdict.target.says,
            "bound": verdict.target.bound,
            "ratio": verdict.found.median if verdict.found else None,
            "quartiles": [verdict.found.low, verdict.found.high] if verdict.found else None,
            "pairs": verdict.found.count if verdict.found else 0,
            "met": verdict.met,
            "why": verdict.why,
        }
        for size, verdict in judged
    ]
    document = {"format": FORMAT, "machine": dict(facts), "results": list(results), "targets": targets}
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _heading(what: str) -> str:
    return what.replace("_", " ").removesuffix(" microseconds").removesuffix(" seconds").removesuffix(" states") or what


def _cell(what: str, samples: Sequence[float]) -> str:
    """The median and, in brackets, the quartiles, all in one unit."""
    found = Summary.of(samples)
    factor, unit, digits = _scale(what, max(abs(found.median), abs(found.high)))
    middle, low, high = (f"{value * factor:.{digits}f}" for value in (found.median, found.low, found.high))
    return f"{middle}{unit}" if found.count == 1 else f"{middle}{unit} [dim]({low} to {high})[/]"


def _scale(what: str, value: float) -> tuple[float, str, int]:
    """By what to multiply, what to write behind it, and how many digits to show."""
    if what.endswith("bytes_per_second"):
        return 1e-9, " GB/s", 2
    if what.endswith("bytes"):
        return 1e-6, " MB", 1
    if what.endswith("states"):
        return 1, " x", 3
    if what.endswith("microseconds"):
        return 1, " µs", 1
    if what.endswith("seconds"):
        return (1, " s", 2) if value >= 1 else (1e3, " ms", 1) if value >= 1e-3 else (1e6, " µs", 1)
    return 1, "", 0 if value.is_integer() else 3
