"""`python -m tests.patterns` runs each pattern whole and killed, and prints the table of `tests/README.md`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.harness.client import ForkServer
from tests.patterns.catalog import PATTERNS, Pattern
from tests.patterns.outcomes import PRELOADED, Outcome, outcome_of

HEAD = "| pattern | outcome | named | mended |\n|---|---|---|---|"


def row(pattern: Pattern, outcome: Outcome, mended: Outcome | None) -> str:
    """Return a row of the table."""
    names = ", ".join(f"`{name}`" for name in pattern.names)
    repaired = "" if mended is None else "exact" if mended.exact else "**NO**"
    return f"| {pattern.what} | {outcome.word(pattern.names)} | {names} | {repaired} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a pattern is silently wrong, or still wrong when it is mended."""
    parser = argparse.ArgumentParser(prog="python -m tests.patterns", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="one pattern, or several")
    parser.add_argument("--lines", action="store_true", help="print also what each run logged")
    options = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="patterns-") as folder, ForkServer(*PRELOADED) as server:
        for pattern in PATTERNS:
            if options.only and pattern.name not in options.only:
                continue
            outcome = outcome_of(server, pattern, Path(folder, pattern.name))
            mended = None
            if pattern.names and pattern.mends:
                mended = outcome_of(server, pattern, Path(folder, f"{pattern.name}.mended"), mended=True)
            print(row(pattern, outcome, mended), flush=True)
            counts[outcome.word(pattern.names)] += 1
            counts["still wrong"] += mended is not None and not mended.exact
            if options.lines:
                print(*(f"    {line}" for line in (*outcome.lines, outcome.refusal)), sep="\n")
                if mended is not None and not mended.exact:
                    print("  mended:", mended)
    print("", ", ".join(f"{number} {word}" for word, number in counts.items() if number), sep="\n")
    return 1 if counts["SILENT"] + counts["still wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
