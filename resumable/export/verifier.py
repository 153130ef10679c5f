"""Proves an artifact: every byte, the weights' bits, and the outputs of its program; needs no training code.

`python -m resumable.export.verifier DIR` is how an export does it in a fresh process, and says on stdout what it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resumable.errors import ConfigError, CorruptCheckpointError, ExportError, ResumableError
from resumable.export import runtimes
from resumable.export.proof import schema as proofs
from resumable.export.proof.artifact import check_files, read_proof
from resumable.export.proof.comparison import Compared, compare, nothing_in
from resumable.export.proof.schema import Known, Proof
from resumable.utils.location import location
from resumable.weights.proof import WeightRecord


@dataclass(frozen=True)
class Measured:
    """What was found here: None where the format has no such thing, or there is no golden input."""

    weights_identical: bool | None
    outputs: Compared | None
    runtime: str | None
    environment: Mapping[str, Any]


def verify(folder: str | Path, *, model: str | None = None) -> tuple[Proof, Measured]:
    """Prove an exported model again, on this machine: read every byte, load it, and run it on its golden input.

    `model` names a function (`package.module:function`) that builds the model: with it also the outputs of weights in
    safetensors files are compared. A program in the folder is run, so trust whoever made it. Raises
    `CorruptCheckpointError` for damage, and `ExportError` where this is not the model that was trained.
    """
    if "://" in str(folder):
        raise ConfigError(
            f"{location(folder)}: an export is verified in a folder of this machine", "copy it here first"
        )
    folder = Path(folder).expanduser()
    proof = read_proof(folder)
    _refuse_unproved(folder, proof)
    check_files(folder, proof)
    _refuse_nothing(folder, proof)
    measured = measure(folder, proof, model=model)
    grade(proof, measured, where=str(folder))
    return proof, measured


def _refuse_unproved(folder: Path, proof: Proof) -> None:
    if proof.grade is None:
        raise ExportError(
            f"{folder}: an export that was killed before it was proved", "remove this folder, and export again"
        )


def _refuse_nothing(folder: Path, proof: Proof) -> None:
    nothing = None if proof.golden is None else nothing_in(runtimes.numbers(folder, proof.golden))
    if nothing is not None:
        raise ExportError(
            f"{folder}: {nothing} in the golden outputs, so that any model would pass for this one",
            "export again, with a golden input for which the model gives numbers: --golden FILE",
        )


def grade(proof: Proof, measured: Measured, *, where: str) -> proofs.Grade:
    """The grade that was reached; `ExportError` says with numbers why it is none."""
    if measured.weights_identical is False:
        raise ExportError(f"{where}: its weights are not those that were saved", "export again; do not serve this one")
    found, tolerance = measured.outputs, proof.tolerance
    if found is not None and not found.identical and (tolerance is None or not found.absolute <= tolerance.absolute):
        most = "none was allowed" if tolerance is None else f"{tolerance.absolute:g} is the tolerance"
        raise ExportError(
            f"{where}: outputs differ by {found.absolute:.3g} ({found.relative:.3g} of the largest), {most}",
            "it is not proved to be the same model; a larger --tolerance is yours to justify",
        )
    if proof.format == "safetensors":
        return "weights-identical"
    if found is None:
        raise ExportError(f"{where}: a program without a golden input proves nothing", "give one: --golden FILE")
    return "outputs-identical" if found.identical else "outputs-within-tolerance"


def measure(folder: Path, proof: Proof, *, model: str | None) -> Measured:
    """Load and run what is in `folder`; judges nothing."""
    identical = _WEIGHTS[proof.format](folder, proof)
    if proof.golden is None:
        if model is not None:
            cast = f", since its weights were cast to {proof.weights.cast_to}" if proof.weights.cast_to else ""
            raise ConfigError(f"{folder}: there is no golden input to run {model} on{cast}", "leave the model out")
        return Measured(identical, None, None, {})
    if proof.format != "safetensors":
        found = runtimes.run(folder, proof, proof.golden)
    elif model is not None:
        found = _with_code(folder, proof.golden, model)
    else:
        return Measured(identical, None, None, {})
    runtime, environment, outputs = found
    try:
        compared = compare(outputs, runtimes.expected(folder, proof.golden))
    except ValueError as error:
        raise ExportError(
            f"{folder / proof.entry}: {error}", "it is another model than the one that was run"
        ) from error
    return Measured(identical, compared, runtime, environment)


def _with_code(folder: Path, known: Known, model: str) -> tuple[str, dict[str, Any], list[Any]]:
    from resumable.export.live_model import build
    from resumable.state.objects.modules import is_extra
    from resumable.weights.load_weights import load_weights

    made = build(model)
    load_weights(made, str(folder), skip=list(filter(is_extra, made.state_dict())))  # which no such file holds
    return runtimes.with_torch(made, folder, known)


# -- weights ----------------------------------------------------------------------------------------------------------


def _of_files(folder: Path, proof: Proof) -> bool:
    from resumable.export.proof.weight_bits import holds

    files = [folder / name for name in proof.files if name.endswith(".safetensors") and not _is_golden(name, proof)]
    try:
        return holds(files, proof.weights.tensors)
    except ValueError as error:
        raise CorruptCheckpointError(f"{folder}: {error}", "export again") from error


def _is_golden(name: str, proof: Proof) -> bool:
    return proof.golden is not None and name == proof.golden.file


def _of_program(folder: Path, proof: Proof) -> bool | None:
    import torch

    with runtimes.told(folder, proof):
        program = torch.export.load(folder / proof.entry)
    held = {name: program.state_dict.get(name) for name in proof.weights.tensors}
    if any(value is None for value in held.values()):
        return None  # it calls them otherwise, so nothing was shown of them
    return all(_is(value, proof.weights.tensors[name]) for name, value in held.items())


def _is(value: Any, record: WeightRecord) -> bool:
    from resumable.state.tensors.facts import facts_of, tensor_digest

    return facts_of(value).dtype == record.dtype and tensor_digest(value) == record.digest


_WEIGHTS: Mapping[str, Any] = {
    "safetensors": _of_files,
    "pt2": _of_program,
    "onnx": lambda folder, proof: None,  # the exporter folds constants: fewer and other tensors than were trained
    "aoti": lambda folder, proof: None,  # compiled in
}


# -- a fresh process --------------------------------------------------------------------------------------------------


def measured_afresh(folder: Path, *, called: Path, model: str | None = None) -> Measured:
    """As `measure`, by a process that has seen nothing of the training; raises what that found.

    Messages name the folder `called`, which it is to become: `folder` is gone by the time that they are read.
    """
    command = [sys.executable, "-m", "resumable.export.verifier", str(folder), *([model] if model else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        said = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ExportError(
            f"{called}: the check in a fresh process ended with {ended.returncode}: {last}",
            "it loads the model once more: is there the memory? Else it is the program, or what --model names, that "
            "ends the process",
        ) from None
    if "error" in said:
        raise ExportError(said["error"].replace(str(folder), str(called)), said["hint"])
    outputs = said.pop("outputs")
    return Measured(outputs=Compared(**outputs) if outputs else None, **said)


def main(arguments: list[str]) -> int:
    """`DIR [MODEL]`: one line of JSON, what was measured or the error."""
    folder, model = Path(arguments[0]), arguments[1] if len(arguments) > 1 else None
    # What a model's code says, in whatever way and until the very end, goes to stderr: stdout is for the one line.
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)
        said = _said(folder, model)
        print(json.dumps(said), file=stdout)
    return 1 if "error" in said else 0


def _said(folder: Path, model: str | None) -> dict[str, Any]:
    try:
        proof = read_proof(folder)
        check_files(folder, proof)
        _refuse_nothing(folder, proof)
        return asdict(measure(folder, proof, model=model))
    except ResumableError as error:
        return {"error": error.message, "hint": error.hint}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
