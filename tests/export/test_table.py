"""The table in the README is what an export of every model in every format gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import load_weights
from tests.export.models import CASES, Case, assert_close, of_size, outputs
from tests.export.table import FORMATS, SHORT, Cell, markdown, measure

README = Path(__file__).with_name("README.md")
CELL = rf"({'|'.join(SHORT.values())})(?:, (\d\.\de-\d\d))?, \d+(?:\.\d+)?(?:B|[KM]iB), \d+\.\d s"


def written() -> dict[tuple[str, str], str]:
    """The cells of the README by model and format."""
    rows = [line.strip("| \n").split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")]
    [header, *body] = [row for row in rows if len(row) == 1 + len(FORMATS)]
    assert header == ["model", *FORMATS]
    return {(row[0], format): cell for row in body for format, cell in zip(FORMATS, row[1:], strict=True)}


def grade(cell: str) -> str:
    found = re.fullmatch(CELL, cell)
    assert found, cell
    return found[1]


def test_every_model_stands_there_in_every_format_with_a_grade() -> None:
    cells = written()
    assert cells.keys() == {(name, format) for name in CASES for format in FORMATS}
    for (_, format), cell in cells.items():
        assert (grade(cell) == "weights identical") is (format == "safetensors")


def test_it_is_printed_as_it_is_read() -> None:
    cell = Cell("within tolerance", 1.25e-7, 1e-4, 818_304, 3.14)
    assert str(cell) == "within tolerance, 1.2e-07, 799.1KiB, 3.1 s"
    assert markdown([("MLP", format, cell) for format in FORMATS]).splitlines()[-1] == f"| MLP |{f' {cell} |' * 4}"
    assert grade(str(cell)) == cell.grade


def held(cells: list[tuple[str, str, Cell]]) -> None:
    """The grades are the README's, and no difference is above what was allowed.

    Other instructions of a processor may give other last bits: what was measured with others says nothing of those.
    """
    expected = written()
    alike = f" {torch.backends.cpu.get_cpu_capability()}," in README.read_text()
    assert cells
    for name, format, cell in cells:
        assert cell.grade == grade(expected[name, format]) or not (alike or format == "safetensors"), str(cell)
        if format != "safetensors":
            assert cell.difference is not None
            assert cell.tolerance is not None
            assert cell.difference <= cell.tolerance


# Compiling a program takes most of the time, so what the table has compiled is also run on other batches.
RUN_ON_OTHERS = ["MLP", "CNN with BatchNorm", "dict and tuple outputs"]


def gives_what_the_live_model_gives(case: Case, run: Path, compiled: Path) -> None:
    """For batches of other sizes than the golden one."""
    model, batch = case.build(), case.batch()
    load_weights(model, str(run))
    program: Any = torch._inductor.aoti_load_package(str(compiled))
    for size in (4, 1, 7):
        other = of_size(batch, size)
        with torch.no_grad():
            assert_close(outputs(program, other), outputs(model.eval(), other))


@pytest.mark.matrix
@pytest.mark.timeout(300)  # half a minute where the machine does nothing else, most of it the compiler's
@pytest.mark.parametrize("name", CASES)
def test_measured_anew_the_grades_are_those_of_the_readme(tmp_path: Path, name: str) -> None:
    held(list(measure(tmp_path, names=[name])))
    if name in RUN_ON_OTHERS:
        run = tmp_path / CASES[name].build.__name__
        gives_what_the_live_model_gives(CASES[name], run, tmp_path / f"{run.name}-aoti" / "model.aoti.pt2")
