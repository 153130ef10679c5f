"""No pattern is silently wrong: it is exact, or a line names what is missing, and the mended program is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.alarms import is_alarm
from tests.harness.client import shared_server
from tests.patterns.catalog import PATTERNS, PROGRAMS, Pattern
from tests.patterns.outcomes import PRELOADED, outcome_of

# One of each way in which state is forgotten; the others are in the matrix.
TELLING = {"plain", "shown_mean", "prefetch", "environment", "forgotten_optimizer", "temperature", "unfreezing"}
TELLING |= {"changed_rate"}  # of the lines about what a launch was built with


def test_the_catalog_has_every_program() -> None:
    assert sorted(each.name for each in PATTERNS) == sorted(path.stem for path in PROGRAMS.glob("*.py"))


@pytest.mark.parametrize(
    "pattern",
    [pytest.param(each, id=each.name, marks=[] if each.name in TELLING else pytest.mark.matrix) for each in PATTERNS],
)
def test_a_pattern_is_exact_or_named_and_exact_once_it_is_mended(pattern: Pattern, tmp_path: Path) -> None:
    server = shared_server(*PRELOADED)
    outcome = outcome_of(server, pattern, tmp_path / "as_written")
    if not pattern.names:
        assert outcome.exact, outcome
        others = [line for line in outcome.lines if "is replayed from its start" not in line]  # exact, and slow
        assert others == [], outcome
        return
    assert outcome.names(pattern.names), outcome
    naming = [line for line in outcome.lines if any(name in line for name in pattern.names)]
    assert all(map(is_alarm, naming)), "a line of another wording: the search for false alarms would pass over it"
    if pattern.mends:
        mended = outcome_of(server, pattern, tmp_path / "mended", mended=True)
        assert mended.exact, mended
