"""Compares what launches of one run wrote down, line by line, with what one uninterrupted launch did."""

from __future__ import annotations

import re
from collections.abc import Sequence


def resumed_from(output: str) -> int | None:
    """Return the step of the checkpoint that a launch resumed from, by its log; None for a new run."""
    found = re.search(r"RESUME\s+step=(\d+)", output)
    return int(found[1]) if found else None


def assert_continue_each_other(launches: Sequence[Sequence[str]], whole: Sequence[str]) -> None:
    """Assert that each launch did what `whole` did from some point on, and that together they left nothing out."""
    reached = 0
    for number, lines in enumerate(launches, 1):
        if not lines:
            continue
        assert lines[0] in whole, f"launch {number} begins with what never happens in one run: {lines[0]}"
        start = whole.index(lines[0])
        assert start <= reached, f"launch {number} left out {whole[reached:start]}"
        reached = start + len(lines)
        assert_equal_lines(lines, whole[start:reached], f"launch {number}")
    assert reached == len(whole), f"never happened: {whole[reached:]}"


def assert_equal_lines(found: Sequence[str], expected: Sequence[str], who: str) -> None:
    """Assert that two lists are equal, and name the first line that is not."""
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        assert one == other, f"{who}, line {number} of {len(found)}, {len(expected)} expected:\n{one}\n{other}"
    assert len(found) == len(expected), f"{who} has {len(found)} lines, expected {len(expected)}: {found[-3:]}"
