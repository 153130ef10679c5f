"""Compare what a command printed undisturbed and killed: numbers that differ in otherwise equal lines. Pure.

Times, dates, rates, sizes, addresses and paths differ in any two launches, and so do progress bars: they are left out.
A line that was printed several times, because its step ran again, counts as equal if it was equal once.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import partial

MAX_LINES = 100_000
MAX_LINE_CHARACTERS = 500
MAX_COMPARED = 200  # lines of one form that differ; more are counted alone

_NUMBER = r"[-+]?(?:\d+(?:[\d,]*\d)?(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_UNIT = (
    r"(?:[munµ]?s|secs?|seconds?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?"
    r"|[KMGTkmgt]i?[Bb]|[Bb]ytes|[KMG]?Hz|fps|[A-Za-z]+/s(?:ec)?|s/[A-Za-z]+)"
)
_TIMED = (
    r"(?:\w*(?:time|elapsed|seconds|secs|latency|duration|throughput|memory|speed)|took|eta|pid|port|fps|sps|dt|ms)"
)
_VOLATILE = re.compile(
    rf"""
    \S*[/\\]\S*                                             # a path, or a URL
    | \b\d{{4}}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?\S*)?    # a date
    | \b\d+:\d\d(?::\d\d)?(?:[.,]\d+)?\b                    # a time
    | \b0x[0-9a-fA-F]+\b                                    # an address
    | \b1[5-9]\d{{8}}(?:\.\d+)?\b                           # seconds since 1970
    | (?<![\w.]){_NUMBER}\s?{_UNIT}(?!\w)
    | \b{_TIMED}\b\W{{0,4}}{_NUMBER}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(rf"(?<![\w.]){_NUMBER}(?![\w])")
_BAR = re.compile(r"\d%\s?\||it/s|s/it|[━█▏▎▍▌▋▊▉]")
_OURS = "resumable: "

Pair = tuple[str, str]


def number_differences(undisturbed: Iterable[str], killed: Iterable[str]) -> list[Pair]:
    """Return the lines, as each of the two printed them, that are equal but for numbers, in the order of the first."""
    before, after = _steady(undisturbed), _steady(killed)
    changed: dict[str, list[str]] = defaultdict(list)
    for steady, line in after.items():
        form = _PLAIN_NUMBER.sub("#", steady)
        if steady not in before and len(changed[form]) < MAX_COMPARED:
            changed[form].append(line)
    pairs = []
    for steady, line in before.items():
        others = changed.get(_PLAIN_NUMBER.sub("#", steady))
        if steady not in after and others:
            nearest = max(others, key=partial(_common, line))
            others.remove(nearest)
            pairs.append((line, nearest))
    return pairs


def _common(one: str, other: str) -> int:
    """Return how many characters two lines have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _steady(lines: Iterable[str]) -> dict[str, str]:
    """Return the lines with a number that should be the same in every launch, by their text without what is not."""
    found: dict[str, str] = {}
    for line in lines:
        shown = line[:MAX_LINE_CHARACTERS].strip()
        if not shown.startswith(_OURS) and not _BAR.search(shown):
            steady = _VOLATILE.sub("~", shown)
            if _PLAIN_NUMBER.search(steady):
                found.setdefault(steady, shown)
    return found
