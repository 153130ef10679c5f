"""The table: every model in every format, exported from a real run and proved; knows how to print it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from resumable.export import Proof, export
from resumable.utils.events import size
from tests.export.models import CASES, Case, trained

FORMATS = ("safetensors", "pt2", "onnx", "aoti")
SHORT = {
    "weights-identical": "weights identical",
    "outputs-identical": "outputs identical",
    "outputs-within-tolerance": "within tolerance",
}


@dataclass(frozen=True)
class Cell:
    """What an export was shown to be, the largest difference of an output, the size of what is published, and seconds.

    The seconds are those of the whole export, its proof in a fresh process among them.
    """

    grade: str
    difference: float | None
    tolerance: float | None
    size_bytes: int
    seconds: float

    @classmethod
    def of(cls, proof: Proof, *, seconds: float) -> Cell:
        return cls(
            grade=SHORT[str(proof.grade)],
            difference=None if proof.difference is None else proof.difference.absolute,
            tolerance=None if proof.tolerance is None else proof.tolerance.absolute,
            size_bytes=sum(file.size for name, file in proof.files.items() if name.startswith("model")),
            seconds=seconds,
        )

    def __str__(self) -> str:
        differs = f", {self.difference:.1e}" if self.difference else ""
        return f"{self.grade}{differs}, {size(self.size_bytes)}, {self.seconds:.1f} s"


def measure(
    folder: Path, *, names: Iterable[str] = tuple(CASES), formats: Iterable[str] = FORMATS
) -> Iterator[tuple[str, str, Cell]]:
    """Model, format, and what came out: each model is trained once, and exported from its newest checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        case = CASES[name]
        run = folder / case.build.__name__
        trained(run, case)
        for format in formats:
            started = time.monotonic()
            proof = _exported(run, case, folder / f"{run.name}-{format}", format)
            yield name, format, Cell.of(proof, seconds=time.monotonic() - started)


def _exported(run: Path, case: Case, to: Path, format: str) -> Proof:
    if format == "safetensors":
        return export(str(run), to).proof
    return export(str(run), to, format=format, model=case.factory, golden=case.batch()).proof


def markdown(cells: Iterable[tuple[str, str, Cell]]) -> str:
    """The table as it stands in the README."""
    rows: dict[str, dict[str, Cell]] = {}
    for name, format, cell in cells:
        rows.setdefault(name, {})[format] = cell
    lines = [f"| model | {' | '.join(FORMATS)} |", "|---" * (1 + len(FORMATS)) + "|"]
    lines += [f"| {name} | {' | '.join(str(row[format]) for format in FORMATS)} |" for name, row in rows.items()]
    return "\n".join(lines)
