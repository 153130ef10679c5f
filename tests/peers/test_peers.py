"""The guide's table has the programs that are measured, and what it reports of the loops of PyTorch is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pages import ROOT, table_rows
from tests.peers.__main__ import measure
from tests.peers.compare import curve, trained
from tests.peers.launches import Ended
from tests.peers.programs import PROGRAMS
from tests.peers.table import COLUMNS, row


def rows_of_the_guide() -> list[list[str]]:
    """Return the rows of the table, without its heading."""
    heading, *rows = [
        row for row in table_rows(ROOT / "resumable" / "guides" / "comparison.md") if len(row) == len(COLUMNS)
    ]
    assert heading == list(COLUMNS)
    return rows


def ended(folder: Path, *events: dict[str, Any]) -> Ended:
    """Return a launch that left these events."""
    side = folder / str(len(list(folder.iterdir())))
    side.with_suffix(".events").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return Ended(side, "")


def batch(number: int, *ids: int) -> dict[str, Any]:
    return {"event": "batch", "epoch": 0, "number": number, "ids": ids, "content": 0}


def test_the_guide_shows_every_program_and_this_package_exact() -> None:
    rows = rows_of_the_guide()
    assert [row[:2] for row in rows] == [[program.framework, program.way] for program in PROGRAMS]
    assert [row for row in rows if row[1] == "**resumable**" and row[2:] != [*5 * ["equal"], "0"]] == []


def test_what_was_trained_after_a_checkpoint_does_not_count(tmp_path: Path) -> None:
    launches = [ended(tmp_path, batch(0, 1), batch(1, 2), batch(2, 3)), ended(tmp_path), ended(tmp_path, batch(1, 4))]
    assert [found["ids"] for found in trained(launches)] == [[1], [4]]


def test_a_value_that_is_logged_again_replaces_the_first_one(tmp_path: Path) -> None:
    logged = [{"event": "log", "step": 1, "values": {"loss": value}} for value in ("0x1", "0x2")]
    assert curve([ended(tmp_path, each) for each in logged]) == {(1, "loss"): "0x2"}


@pytest.mark.matrix
def test_the_loops_of_pytorch_end_as_the_guide_shows(tmp_path: Path) -> None:
    programs = [program for program in PROGRAMS if program.framework == "PyTorch"]
    found = [row(program, outcome) for program, outcome in measure(programs, tmp_path)]
    cells = [line.strip("| ").split(" | ")[:-1] for line in found]  # how far apart depends on the processor
    assert cells == [expected[:-1] for expected in rows_of_the_guide() if expected[0] == "PyTorch"]
