"""Prove an artifact: every byte, the bits of its weights, and the outputs of its program. Needs no training code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resumable.errors import ConfigError, CorruptCheckpointError, ExportError
from resumable.export import runtimes
from resumable.export.proof.artifact import check_files, read_proof
from resumable.export.proof.comparison import OutputComparison, compare_outputs, uninformative_arrays
from resumable.export.proof.golden_file import expected_outputs, output_numbers
from resumable.export.proof.schema import GoldenRecord, Grade, Proof
from resumable.export.runtimes import RuntimeResult
from resumable.utils.location import location
from resumable.weights.proof import WeightRecord

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """The result of loading and running an artifact on this machine.

    Attributes:
        weights_identical: whether it holds the checkpoint's tensors, every bit; None for formats that transform them.
        outputs: its outputs compared with the golden ones; None where nothing was run.
        runtime: name and version of the runtime; None where nothing was run.
        environment: the facts of this machine that may change bits.
    """

    weights_identical: bool | None
    outputs: OutputComparison | None
    runtime: str | None
    environment: Mapping[str, object]


def verify(folder: str | Path, *, model: str | None = None) -> tuple[Proof, Measured]:
    """Prove an exported model again, on this machine: read every byte, load it, and run it on its golden input.

    A program in the folder is executed, so verify only folders that you trust.

    Args:
        folder: the local folder that `export` made.
        model: `package.module:function` that builds the model. With it the outputs of safetensors weights are compared,
            too.

    Returns:
        The proof that lies in the folder, and the result of measuring here.

    Raises:
        CorruptCheckpointError: a file is damaged, missing or not listed in the proof.
        ExportError: it is not, within its tolerance, the model that was trained.
        NoCheckpointError: there is no proof in `folder`.
        ConfigError: an argument cannot be used, or the runtime is not installed.
    """
    if "://" in str(folder):
        raise ConfigError(
            f"folder: expected a folder on this machine, found the URL {location(folder)}", "copy it here first"
        )
    folder = Path(folder).expanduser()
    proof = read_proof(folder)
    _refuse_unproved(folder, proof)
    check_artifact(folder, proof)
    measured = measure(folder, proof, model=model)
    grade(proof, measured, where=str(folder))
    return proof, measured


def _refuse_unproved(folder: Path, proof: Proof) -> None:
    if proof.grade is None:
        raise ExportError(
            f"{folder}: an export that was killed before it was proved", "remove this folder, and export again"
        )


def check_artifact(folder: Path, proof: Proof) -> None:
    """Check every file, and that the golden outputs can tell models apart; raises as `verify`."""
    check_files(folder, proof)
    nothing = None if proof.golden is None else uninformative_arrays(output_numbers(folder, proof.golden))
    if nothing is not None:
        raise ExportError(
            f"{folder}: {nothing} in the golden outputs, so that any model would pass for this one",
            "export again, with a golden input for which the model gives numbers: --golden FILE",
        )


def grade(proof: Proof, measured: Measured, *, where: str) -> Grade:
    """Return the grade that was reached; raise `ExportError` with the numbers where there is none."""
    if measured.weights_identical is False:
        raise ExportError(f"{where}: its weights are not those that were saved", "export again; do not serve this one")
    found, tolerance = measured.outputs, proof.tolerance
    if found is not None and not found.identical and (tolerance is None or not found.absolute <= tolerance.absolute):
        most = "none was allowed" if tolerance is None else f"{tolerance.absolute:g} is the tolerance"
        raise ExportError(
            f"{where}: outputs differ by {found.absolute:.3g} ({found.relative:.3g} of the largest), {most}",
            "it is not proved to be the same model; if that difference is acceptable, pass a larger --tolerance",
        )
    if proof.format == "safetensors":
        return "weights-identical"
    if found is None:
        raise ExportError(f"{where}: a program without a golden input proves nothing", "pass one: --golden FILE")
    return "outputs-identical" if found.identical else "outputs-within-tolerance"


def measure(folder: Path, proof: Proof, *, model: str | None) -> Measured:
    """Load and run the artifact in `folder`; decides nothing."""
    identical = _COMPARE_WEIGHTS[proof.format](folder, proof)
    result = _run(folder, proof, model)
    if result is None or proof.golden is None:
        return Measured(identical, None, None, {})
    try:
        compared = compare_outputs(result.outputs, expected_outputs(folder, proof.golden))
    except ValueError as error:
        raise ExportError(
            f"{folder / proof.entry}: {error}", "it is another model than the one that was run at export"
        ) from error
    return Measured(identical, compared, result.runtime, result.environment)


def _run(folder: Path, proof: Proof, model: str | None) -> RuntimeResult | None:
    if proof.golden is None:
        if model is not None:
            cast = f", since its weights were cast to {proof.weights.cast_to}" if proof.weights.cast_to else ""
            raise ConfigError(f"{folder}: there is no golden input to run {model} on{cast}", "leave the model out")
        return None
    if proof.format != "safetensors":
        return runtimes.run(folder, proof, proof.golden)
    return None if model is None else _run_with_code(folder, proof.golden, model)


def _run_with_code(folder: Path, golden: GoldenRecord, model: str) -> RuntimeResult:
    from resumable.export.live_model import build_model
    from resumable.state.objects.modules import is_extra
    from resumable.weights.load_weights import load_weights

    made = build_model(model)
    load_weights(made, str(folder), skip=list(filter(is_extra, made.state_dict())))  # which no such file holds
    return runtimes.run_with_torch(made, folder, golden)


# -- weights ----------------------------------------------------------------------------------------------------------


def _compare_files(folder: Path, proof: Proof) -> bool:
    from resumable.export.proof.weight_bits import weights_match

    files = [folder / name for name in proof.files if name.endswith(".safetensors") and not _is_golden(name, proof)]
    try:
        return weights_match(files, proof.weights.tensors)
    except ValueError as error:
        raise CorruptCheckpointError(f"{folder}: {error}", "export again") from error


def _is_golden(name: str, proof: Proof) -> bool:
    return proof.golden is not None and name == proof.golden.file


def _compare_program(folder: Path, proof: Proof) -> bool | None:
    import torch

    with runtimes.runtime_errors(folder, proof):
        program = torch.export.load(folder / proof.entry)
    held, expected = program.state_dict, proof.weights.tensors
    if not expected.keys() <= held.keys():
        return None  # the program has other names for them, so nothing can be compared
    return all(_matches(held[name], record) for name, record in expected.items())


def _matches(value: Tensor, record: WeightRecord) -> bool:
    from resumable.state.tensors.facts import facts_of, tensor_digest

    return facts_of(value).dtype == record.dtype and tensor_digest(value) == record.digest


_COMPARE_WEIGHTS: Mapping[str, Callable[[Path, Proof], bool | None]] = {
    "safetensors": _compare_files,
    "pt2": _compare_program,
    "onnx": lambda folder, proof: None,  # the exporter folds constants: fewer and other tensors than were trained
    "aoti": lambda folder, proof: None,  # weights are compiled in
}
