"""An exported model and its proof, for people and for programs; runs nothing by itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from resumable.cli.terminal import Column, Styled, count, meanwhile, print_json, print_table, say
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


def no_words_on_stdout() -> AbstractContextManager[object]:
    """While it lasts, what the code of a model prints goes to stderr: stdout is for results."""
    return redirect_stdout(sys.stderr)


def prove(folder: str, *, model: str | None, json: bool) -> None:
    """Prove an exported model again, and tell; `ExportError` or `CorruptCheckpointError` where it is not the same."""
    from resumable.export.verifier import grade, verify

    try:
        with meanwhile(f"loading and running {folder}"), no_words_on_stdout():
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
    say((GRADES[reached], "green"), _numbers(proof, measured.outputs))
    say(("proved     ", "dim"), f"{GRADES[proof.grade]}, of {_origin(proof)}")
    if measured.runtime:
        say(("run with   ", "dim"), measured.runtime)
    print_notes(proof)


def _document(proof: Proof, measured: Measured, reached: str) -> dict[str, Any]:
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
    """What was published, file by file, and what it was shown to be."""
    rows: list[list[Styled]] = [[name, size(record.size), record.digest] for name, record in proof.files.items()]
    print_table([Column("file"), Column("size", "right"), Column("digest", drop=1)], rows)
    say((GRADES[proof.grade], "green"), _numbers(proof, proof.difference))
    say(("exported   ", "dim"), f"{_origin(proof)} as {proof.format} to {folder}")
    if proof.checked:
        runtime = proof.checked.runtime
        say(("checked    ", "dim"), "in a fresh process" + (f", with {runtime}" if runtime else ""))
    print_notes(proof)


def print_notes(proof: Proof) -> None:
    """What must be known beside the numbers."""
    for note in proof.notes:
        say(("note       ", "dim"), note)
