"""What type checkers see where users stand: the type of a batch, and an error for a name that does not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Found = tuple[dict[int, str], dict[int, str]]  # by line: the types that are revealed, and the errors

# Each `reveal_type` is followed by the type that both checkers are to print.
PROGRAM = """
from collections.abc import Iterator
from dataclasses import dataclass

from resumable import Trainer


@dataclass
class Picture:
    pixels: list[float]


@dataclass
class Label:
    number: int


class Pictures:
    def __iter__(self) -> Iterator[Picture]:
        yield Picture([0.0])


class Labels:
    def __iter__(self) -> Iterator[Label]:
        yield Label(0)


trainer = Trainer("runs/typed", weights=[0.0])
cycle = trainer.cycle(Pictures())

for epoch in trainer.epochs(2):
    reveal_type(epoch)  # int
    for picture in trainer.batches(Pictures()):
        reveal_type(picture)  # Picture
        picture.pixel  # error
        reveal_type(next(cycle))  # Picture
    for pair in trainer.batches(Pictures(), Labels()):
        reveal_type(pair)  # tuple[Picture, Label]
        pair[1].numbers  # error
    for triple in trainer.batches(Pictures(), Labels(), Pictures()):
        reveal_type(triple)  # tuple[Picture, Label, Picture]
    for several in trainer.batches(Labels(), Labels(), Labels(), Labels()):
        reveal_type(several)  # tuple[Label, ...]
    for index, picture in trainer.enumerate(Pictures()):
        reveal_type(index)  # int
        reveal_type(picture)  # Picture
    for index, (picture, label) in trainer.enumerate(Pictures(), Labels()):
        reveal_type(label)  # Label
    for label in trainer.evaluate(Labels()):
        reveal_type(label)  # Label
        label.numbers  # error
    trainer.log(loss=0.5, right=3)
    measured: dict[str, float] = {"loss/train": 0.5}
    trainer.log(measured, right=3)
    trainer.log({"loss/train": 0.5, "right": 3})
    trainer.log(["loss"])  # error
    value = trainer.metrics["loss"]
    reveal_type(value)  # float
    trainer.metrics["loss"] = 0.0  # error
for step in trainer.steps(2):
    reveal_type(step)  # int
trainer.batch(Pictures())  # error
"""

MYPY = """
[mypy]
strict = true
[mypy-resumable.*]
follow_imports = silent
[mypy-torch.*,numpy.*,pydantic.*,pydantic_settings.*,rich.*,fsspec.*,yaml.*]
follow_imports = skip
"""

WRONG_METRIC = """
from resumable import Trainer

trainer = Trainer("runs/typed", weights=[0.0])
trainer.log(loss="high")  # error
trainer.log({"loss/train": "high"})  # error
trainer.log({1: 0.5})  # error
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    return tmp_path


def _expected(program: str, what: str) -> dict[int, str]:
    lines = enumerate(program.splitlines(), start=1)
    marked = {number: line.partition("  # ") for number, line in lines if "  # " in line}
    return {number: note for number, (_, _, note) in marked.items() if (note == "error") == (what == "error")}


def _mypy(project: Path, program: str) -> Found:
    (project / "program.py").write_text(program)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--output=json", "--config-file=mypy.ini", "program.py"],
        cwd=project,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert not found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    revealed = {line["line"]: line["message"].split('"')[1] for line in lines if line["severity"] == "note"}
    return revealed, {line["line"]: line["message"] for line in lines if line["severity"] == "error"}


def _pyright(project: Path, program: str) -> Found:
    (project / "program.py").write_text(program)
    found = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "program.py"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert not found.stderr
    lines = [(line["range"]["start"]["line"] + 1, line) for line in json.loads(found.stdout)["generalDiagnostics"]]
    revealed = {n: line["message"].split('"')[3] for n, line in lines if line["severity"] == "information"}
    return revealed, {n: line["message"] for n, line in lines if line["severity"] == "error"}


@pytest.mark.parametrize("check", [_mypy, _pyright])
def test_a_batch_has_the_type_of_what_the_loader_yields(check: Callable[[Path, str], Found], project: Path) -> None:
    revealed, errors = check(project, PROGRAM)
    plain = {number: kind.replace("program.", "") for number, kind in revealed.items()}
    assert plain == _expected(PROGRAM, "type")
    assert errors.keys() == _expected(PROGRAM, "error").keys()
    assert all(name in " ".join(errors.values()) for name in ('"pixel"', '"numbers"', '"batch"'))


def test_what_is_logged_is_a_number(project: Path) -> None:
    _, errors = _pyright(project, WRONG_METRIC)  # mypy would have to read all of torch for it
    assert errors.keys() == _expected(WRONG_METRIC, "error").keys()
