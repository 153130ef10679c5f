"""Print an exported model and its proof, as text or JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from resumable.cli.terminal import Column, Styled, count, print_json, print_line, print_table, spinner
from resumable.errors import ResumableError
from resumable.utils.events import size

if TYPE_CHECKING:
    from resumable.export.proof.comparison import OutputComparison
    from resumable.export.proof.schema import OutputDifference, Proof
    from resumable.export.verifier import Measured

GRADES: Mapping[str | None, str] = {
    "weights-identical": "weights bit-identical",
    "outputs-identical": "outputs bit-identical",
    "outputs-within-tolerance": "outputs within the tolerance",
}


def prints_to_stderr() -> AbstractContextManager[object]:
    """Redirect the prints of a model's code to stderr while the context lasts: stdout is for results."""
    return redirect_stdout(sys.stderr)


def prove(folder: str, *, model: str | None, json: bool) -> None:
    """Prove an exported model again and print the result; raises as `resumable.export.verify`."""
    from resumable.export.verifier import grade, verify

    try:
        with spinner(f"loading and running {folder}"), prints_to_stderr():
            proof, measured = verify(folder, model=model)
    except ResumableError as error:
        if not json:
            raise
        print_json({"folder": folder, "ok": False, "error": error.message, "hint": error.hint})
        raise typer.Exit(1) from error
    reached = grade(proof, measured, where=folder)
    if json:
        print_json({"folder": folder, "ok": True, **_document(proof, measured, reached)})
        return
    print_line((GRADES[reached], "green"), _numbers(proof, measured.outputs))
    print_line(("proved     ", "dim"), f"{GRADES[proof.grade]}, of {_origin(proof)}")
    if measured.runtime:
        print_line(("run with   ", "dim"), measured.runtime)
    print_notes(proof)


def _document(proof: Proof, measured: Measured, reached: str) -> dict[str, object]:
    found = measured.outputs
    return {
        "grade": reached,
        "proved": proof.grade,
        "weights_identical": measured.weights_identical,
        "difference": None if found is None else {"absolute": found.absolute, "relative": found.relative},
        "tolerance": None if proof.tolerance is None else proof.tolerance.absolute,
        "runtime": measured.runtime,
    }


def _numbers(proof: Proof, found: OutputComparison | OutputDifference | None) -> str:
    tensors = f": {count(len(proof.weights.tensors), 'tensor')}" if proof.format == "safetensors" else ":"
    if found is None or proof.tolerance is None:
        return tensors
    separator = "; outputs:" if proof.format == "safetensors" else ""
    most = f"(tolerance {proof.tolerance.absolute:g})"
    return f"{tensors}{separator} largest difference {found.absolute:.3g} {most}, {_batch(proof)}"


def _batch(proof: Proof) -> str:
    return f"batch of {proof.golden.batch_size}" if proof.golden else "no golden input"


def _origin(proof: Proof) -> str:
    return f"{proof.source.object} at {proof.source.checkpoint}"


def print_proof(folder: Path, proof: Proof) -> None:
    """Print the published files, and the grade that was reached."""
    rows: list[list[Styled]] = [[name, size(record.size), record.digest] for name, record in proof.files.items()]
    print_table([Column("file"), Column("size", "right"), Column("digest", drop=1)], rows)
    print_line((GRADES[proof.grade], "green"), _numbers(proof, proof.difference))
    print_line(("exported   ", "dim"), f"{_origin(proof)} as {proof.format} to {folder}")
    if proof.checked:
        runtime = proof.checked.runtime
        print_line(("checked    ", "dim"), "in a fresh process" + (f", with {runtime}" if runtime else ""))
    print_notes(proof)


def print_notes(proof: Proof) -> None:
    """Print the caveats beside the numbers."""
    for note in proof.notes:
        print_line(("note       ", "dim"), note)
