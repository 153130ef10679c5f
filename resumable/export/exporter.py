"""One export, from checkpoint to published folder: write it, prove it in a fresh process, then rename it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resumable.errors import ConfigError
from resumable.export import caveats
from resumable.export.checkpoint_module import CheckpointModule, open_module
from resumable.export.formats import programs
from resumable.export.formats.safetensors import WeightSpec, write_weights
from resumable.export.fresh_process import measure_in_fresh_process
from resumable.export.golden_outputs import (
    GoldenCase,
    choose_golden,
    float32_case,
    refuse_without_number,
    with_outputs,
    write_golden,
)
from resumable.export.proof.artifact import atomic_folder, file_records, refuse_existing
from resumable.export.proof.schema import Checked, GoldenRecord, OutputDifference, Proof, Tolerance
from resumable.export.request import Batch, ExportRequest
from resumable.export.verifier import Measured, grade
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.run.target import parse_target_or_folder
from resumable.state.tensors.facts import DTYPES
from resumable.store.storage.local import LocalStorage
from resumable.utils.environment import versions
from resumable.utils.location import location
from resumable.weights.files import INDEX, SINGLE
from resumable.weights.proof import PROOF, ProvedWeights, WeightRecord

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Exported:
    """A published artifact.

    Attributes:
        folder: the absolute path of the new folder.
        proof: the content of its `proof.json`.
    """

    folder: Path
    proof: Proof


def export(
    source: str | Checkpoint,
    to: str | Path,
    *,
    format: str = "safetensors",
    object: str | None = None,
    model: str | None = None,
    golden: Tensor | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Tensor] | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    tolerance: float | None = None,
    batch: Batch = "dynamic",
    storage_options: Mapping[str, Any] | None = None,
) -> Exported:
    """Export a model from a checkpoint into a new folder, with a proof that it is the same model. Blocks.

    A fresh process loads and runs the result before the folder gets its name. Where it is not the same model, nothing
    is published.

    Args:
        source: a `Checkpoint`, `RUN[@latest|@best|@finite|@STEP]`, or a checkpoint's folder.
        to: the new folder, on this machine; it must not exist.
        format: `safetensors` (weights in Hugging Face layout, needs no code and at most one tensor in memory), or one
            of the programs `pt2`, `onnx` and `aoti`, which need `model` and a golden input.
        object: the name of the module in the checkpoint; by default the only one, or `model`.
        model: `package.module:function`; the function builds the model and takes no arguments.
        golden: a known input: a tensor, a tuple of tensors, or a dict of tensors by argument name; by default the one
            that training passed to `trainer.golden(batch)`.
        dtype: casts floating-point weights to `float32`, `float16` or `bfloat16`; only for safetensors.
        max_shard_bytes: the largest size of one file of weights, in bytes; by default all are in one file.
        tolerance: the largest absolute difference of an output that passes; by default 1e-4, where all outputs are
            float16 1e-3, where all are bfloat16 1e-2.
        batch: `dynamic` makes programs for any batch size, `fixed` for that of the golden input alone.
        storage_options: passed to fsspec to open the run.

    Returns:
        The folder and its proof.

    Raises:
        ConfigError: an argument cannot be used, or a package is not installed.
        ExportError: the model cannot be exported, or it is not proved to be the same.
        RunMismatchError: the function of `model` builds another model than the checkpoint holds.
        StateError: `golden` is not a batch of tensors, or the model fails on it.
        StorageError: the folder cannot be written.
        CheckpointError: the checkpoint does not exist or cannot be read.
    """
    target = _local_folder(to)
    refuse_existing(target)
    checkpoint = source if isinstance(source, Checkpoint) else _open_checkpoint(source, storage_options)
    request = ExportRequest(format, object or checkpoint.main_module(), model, dtype, max_shard_bytes, tolerance, batch)
    stored = open_module(checkpoint, request.object)
    case = choose_golden(checkpoint, request, golden)
    with atomic_folder(target) as folder:
        write = _write_weights if format == "safetensors" else _write_program
        draft = write(folder, stored, case, request)
        return Exported(target, _prove(folder, draft, request, target))


def _local_folder(to: str | Path) -> Path:
    if "://" in str(to):
        raise ConfigError(
            f"to: expected a folder on this machine, found the URL {location(to)}",
            "export to a local folder, then copy it",
        )
    return Path(to).expanduser().absolute()


def _open_checkpoint(source: str, storage_options: Mapping[str, Any] | None) -> Checkpoint:
    url, selector = parse_target_or_folder(source)
    return Run(url, storage_options=storage_options).select(selector)


# -- writing ----------------------------------------------------------------------------------------------------------


def _write_weights(folder: Path, stored: CheckpointModule, case: GoldenCase | None, request: ExportRequest) -> Proof:
    weights = [
        WeightSpec(name, _cast(record.dtype, request.dtype), tuple(record.shape))
        for name, record in stored.records.items()
    ]
    storage = LocalStorage(folder)
    digests = write_weights(storage, weights, stored.read, tied=stored.tied, max_bytes=request.max_shard_bytes)
    # Without a cast, the checkpoint's own digests count, not those of the values that were read and written.
    tensors = {
        each.name: WeightRecord(
            dtype=each.dtype,
            shape=list(each.shape),
            digest=stored.digest_of(each.name) if request.dtype is None else digests[each.name],
        )
        for each in weights
    }
    notes = caveats.weight_caveats(stored, cast_to=request.dtype)
    golden = None
    if case is not None and request.dtype is not None:
        notes.append("there are no golden outputs: those of the live model belong to weights that were not cast")
    elif case is not None:
        golden = _golden_of_weights(folder, stored, case, request)
    entry = SINGLE if (folder / SINGLE).exists() else INDEX
    return _draft(folder, request, stored, entry, tensors, golden, notes)


def _golden_of_weights(
    folder: Path, stored: CheckpointModule, case: GoldenCase, request: ExportRequest
) -> GoldenRecord:
    if request.model is not None:
        case, _ = with_outputs(case, stored, request)
    if not case.golden.outputs:
        raise ConfigError(
            "golden: without a model to run it, it proves nothing about weights",
            "name the function that builds the model: --model package.module:function; or leave --golden out",
        )
    refuse_without_number(case, stored)
    no_inputs, no_outputs = [None] * len(case.golden.inputs), [None] * len(case.golden.outputs)
    return write_golden(folder, case, request, inputs=no_inputs, outputs=no_outputs)


def _cast(dtype: str, to: str | None) -> str:
    return to if to is not None and DTYPES[dtype].is_floating_point else dtype


def _write_program(folder: Path, stored: CheckpointModule, case: GoldenCase | None, request: ExportRequest) -> Proof:
    assert case is not None
    case, model = with_outputs(case, stored, request)
    made_by = "export" if case.live is None else "trainer"
    notes = caveats.program_caveats(model, request, case.golden, made_by=made_by)
    if request.format == "onnx" and caveats.has_bfloat16(model):
        model = programs.to_float32(model)
        case, difference = float32_case(model, case)
        notes.append(caveats.float32_caveat(difference))
    call = programs.ModelCall.of(case.golden.inputs, case.golden.arguments)
    program = programs.write_program(model, call, folder, format=request.format, batch=request.batch)
    golden = write_golden(folder, case, request, inputs=program.input_names, outputs=program.output_names)
    tensors = {
        name: WeightRecord(dtype=record.dtype, shape=list(record.shape), digest=stored.digest_of(name))
        for name, record in stored.records.items()
    }
    return _draft(folder, request, stored, program.entry, tensors, golden, notes)


# -- the proof --------------------------------------------------------------------------------------------------------


def _draft(
    folder: Path,
    request: ExportRequest,
    stored: CheckpointModule,
    entry: str,
    tensors: dict[str, WeightRecord],
    golden: GoldenRecord | None,
    notes: list[str],
) -> Proof:
    """Return the proof as it is before anything was measured."""
    tolerance = None
    if golden is not None:
        tolerance = Tolerance(absolute=request.tolerance_for(port.dtype for port in golden.outputs))
    return Proof(
        format=request.format,  # type: ignore[arg-type]
        grade=None,
        source=stored.source,
        entry=entry,
        files=file_records(folder),
        weights=ProvedWeights(cast_to=request.dtype, identical=None, tensors=tensors, tied=dict(stored.tied)),
        golden=golden,
        tolerance=tolerance,
        difference=None,
        checked=None,
        notes=notes,
        versions=versions(),
        created=time.time(),
    )


def _prove(folder: Path, draft: Proof, request: ExportRequest, target: Path) -> Proof:
    """Measure `folder` in a fresh process, and write the complete proof."""
    storage = LocalStorage(folder)
    storage.write(PROOF, [draft.dump()])
    model = request.model if request.format == "safetensors" else None
    measured = measure_in_fresh_process(folder, published_as=target, model=model)
    proof = _complete(draft, measured, where=str(target))
    storage.write(PROOF, [proof.dump()])
    return proof


def _complete(draft: Proof, measured: Measured, *, where: str) -> Proof:
    found = measured.outputs
    return draft.model_copy(
        update={
            "grade": grade(draft, measured, where=where),
            "weights": draft.weights.model_copy(update={"identical": measured.weights_identical}),
            "difference": found and OutputDifference(absolute=found.absolute, relative=found.relative),
            "checked": Checked(runtime=measured.runtime, environment=dict(measured.environment)),
        }
    )
