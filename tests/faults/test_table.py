"""The table in the README is what the laboratory measures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.damage import KINDS
from tests.faults.forks import Forks
from tests.faults.subjects import PEERS, RESUMABLE
from tests.faults.table import experiments
from tests.faults.verdicts import Verdict

README = Path(__file__).with_name("README.md")


def column(number: int) -> dict[str, str]:
    """The cells of one writer in the README, by the name of the fault."""
    rows = [line.strip("| \n").split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")]
    [header, *body] = [row for row in rows if len(row) == 1 + len(PEERS)]
    assert header[1:] == [subject.name for subject in PEERS]
    return {row[0]: row[number] for row in body if not row[0].startswith("**")}


def test_the_readme_promises_zero_for_resumable_in_every_row() -> None:
    for fault, cell in column(1).items():
        assert re.fullmatch(r"[1-9]\d*: 0 / 0 / 0", cell), fault


# Rows that test_syscalls.py and test_full_disk.py sweep as widely, as test_damage_everywhere.py does those of damage.
SWEPT = re.compile("at a system call|disk filled")


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_quiet", "_strace", "_fuse", "_mounts")
def test_a_run_of_the_laboratory_gives_the_rows_of_the_readme(forks: Forks, folder: Path) -> None:
    rows = dict(experiments(forks, RESUMABLE, folder / "rows"))
    assert {*rows, *KINDS} == column(1).keys()
    assert sum(bool(SWEPT.search(name)) for name in rows) == 7
    for name, verdicts in rows.items():
        if not SWEPT.search(name):
            assert set(verdicts()) == {Verdict.RIGHT}, name
