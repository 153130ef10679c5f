"""One export from checkpoint to published folder: made, proved in a fresh process, and only then given its name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resumable.errors import ConfigError
from resumable.export import caveats
from resumable.export import golden_outputs as known_inputs
from resumable.export.formats import programs, safetensors
from resumable.export.formats.safetensors import Weight
from resumable.export.golden_outputs import Given
from resumable.export.proof import artifact
from resumable.export.proof import schema as proof
from resumable.export.proof.schema import Known, Proof
from resumable.export.request import Batch, Wanted
from resumable.export.stored_module import Stored, stored
from resumable.export.verifier import Measured, grade, measured_afresh
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.run.target import parse_target
from resumable.state.tensors.facts import DTYPES
from resumable.store.storage.local import LocalStorage
from resumable.utils.environment import versions
from resumable.utils.location import location
from resumable.weights.files import INDEX, SINGLE
from resumable.weights.proof import PROOF, ProvedWeights, WeightRecord


@dataclass(frozen=True)
class Exported:
    """A published artifact, and the proof in it."""

    folder: Path
    proof: Proof


def export(
    source: str | Checkpoint,
    to: str | Path,
    *,
    format: str = "safetensors",
    object: str | None = None,
    model: str | None = None,
    golden: Any = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    tolerance: float | None = None,
    batch: Batch = "dynamic",
    storage_options: Mapping[str, Any] | None = None,
) -> Exported:
    """Carry a model from a checkpoint into the new folder `to`, with the proof that it is the same. Blocks.

    `source` is a `Checkpoint` or `RUN[@latest|@best|@finite|@STEP]`. `format` is `safetensors` (weights in Hugging Face
    layout, needs no code and at most one tensor in memory), or a program: `pt2`, `onnx`, `aoti`, which need `model`, a
    function `package.module:function` that builds it, and a golden input: `golden` (a tensor, a tuple of tensors, a
    dict of them by argument), or the one that training gave to `trainer.golden(batch)`. `dtype` casts floating-point
    weights (safetensors alone). `tolerance` is the largest absolute difference of an output that passes: 1e-4, where
    all outputs are float16 1e-3, where all are bfloat16 1e-2. `batch`: programs take batches of any size, or of the
    golden input's alone.

    What was made is loaded and run by a fresh process before it gets its name; where it is not the same model nothing
    is published: `ExportError`. Raises `ConfigError` for what cannot be asked, `RunMismatchError` where `model` builds
    another one, `StorageError` where it cannot be written, and as `Run` where the checkpoint cannot be read.
    """
    target = _local(to)
    artifact.refuse_existing(target)
    checkpoint = source if isinstance(source, Checkpoint) else _opened(source, storage_options)
    wanted = Wanted(format, object or checkpoint.main_module(), model, dtype, max_shard_bytes, tolerance, batch)
    found = stored(checkpoint, wanted.object)
    given = known_inputs.given(checkpoint, wanted, golden)
    with artifact.made(target) as folder:
        make = _weights_alone if format == "safetensors" else _program
        return Exported(target, _proved(folder, make(folder, found, given, wanted), wanted, target))


def _local(to: str | Path) -> Path:
    if "://" in str(to):
        raise ConfigError(
            f"{location(to)}: an export goes into a folder of this machine", "export here, then copy the folder"
        )
    return Path(to).expanduser().absolute()


def _opened(source: str, storage_options: Mapping[str, Any] | None) -> Checkpoint:
    url, selector = parse_target(source)
    return Run(url, storage_options=storage_options).select(selector)


# -- what is made -----------------------------------------------------------------------------------------------------


def _weights_alone(folder: Path, found: Stored, given: Given | None, wanted: Wanted) -> Proof:
    weights = [
        Weight(name, _cast(record.dtype, wanted.dtype), tuple(record.shape)) for name, record in found.records.items()
    ]
    digests = safetensors.write(
        LocalStorage(folder), weights, found.read, tied=found.tied, max_bytes=wanted.max_shard_bytes
    )
    # Of what is not cast the checkpoint's own digests are the word, not those of what was read and written.
    tensors = {
        each.name: WeightRecord(
            dtype=each.dtype,
            shape=list(each.shape),
            digest=found.records[each.name].digest if wanted.dtype is None else digests[each.name],
        )
        for each in weights
    }
    said = caveats.of_weights(found, cast_to=wanted.dtype)
    known = None
    if given is not None and wanted.dtype is not None:
        said.append("there are no golden outputs: those of the live model are of weights that were not cast")
    elif given is not None:
        known = _known_of_weights(folder, found, given, wanted)
    return _draft(folder, wanted, found, _entry(folder), tensors, known, said)


def _known_of_weights(folder: Path, found: Stored, given: Given, wanted: Wanted) -> Known | None:
    if wanted.model is not None:
        given, _ = known_inputs.with_outputs(given, found, wanted)
    if not given.golden.outputs:
        raise ConfigError(
            "a golden input alone proves nothing of weights: nothing here can run it",
            "name the function that builds the model: --model package.module:function; or leave --golden out",
        )
    known_inputs.refuse_nothing(given, found)
    nameless = {"inputs": [None] * len(given.golden.inputs), "outputs": [None] * len(given.golden.outputs)}
    return known_inputs.written(folder, given, wanted, **nameless)


def _cast(dtype: str, to: str | None) -> str:
    return to if to is not None and DTYPES[dtype].is_floating_point else dtype


def _entry(folder: Path) -> str:
    return SINGLE if (folder / SINGLE).exists() else INDEX


def _program(folder: Path, found: Stored, given: Given | None, wanted: Wanted) -> Proof:
    assert given is not None
    given, model = known_inputs.with_outputs(given, found, wanted)
    said = caveats.of_program(model, wanted, given.golden, made_by="export" if given.live is None else "trainer")
    if wanted.format == "onnx" and caveats.has_bfloat16(model):
        model = programs.upcast(model)
        given, difference = known_inputs.upcast(model, given)
        said.append(caveats.upcast(difference))
    call = programs.Call.of(given.golden.inputs, given.golden.arguments)
    written = programs.write(model, call, folder, format=wanted.format, batch=wanted.batch)
    known = known_inputs.written(folder, given, wanted, inputs=written.input_names, outputs=written.output_names)
    tensors = {
        name: WeightRecord(dtype=record.dtype, shape=list(record.shape), digest=record.digest)
        for name, record in found.records.items()
    }
    return _draft(folder, wanted, found, written.entry, tensors, known, said)


# -- the proof --------------------------------------------------------------------------------------------------------


def _draft(
    folder: Path,
    wanted: Wanted,
    found: Stored,
    entry: str,
    tensors: dict[str, WeightRecord],
    known: Known | None,
    said: list[str],
) -> Proof:
    """The proof before anything was shown."""
    tolerance = None
    if known is not None:
        tolerance = proof.Tolerance(absolute=wanted.tolerance_for(port.dtype for port in known.outputs))
    return Proof(
        format=wanted.format,  # type: ignore[arg-type]
        grade=None,
        source=found.source,
        entry=entry,
        files=artifact.records(folder),
        weights=ProvedWeights(cast_to=wanted.dtype, identical=None, tensors=tensors, tied=dict(found.tied)),
        golden=known,
        tolerance=tolerance,
        difference=None,
        checked=None,
        notes=said,
        versions=versions(),
        created=time.time(),
    )


def _proved(folder: Path, draft: Proof, wanted: Wanted, target: Path) -> Proof:
    """The whole proof, once a fresh process has loaded and run what is in `folder`."""
    storage = LocalStorage(folder)
    storage.write(PROOF, [draft.dump()])
    model = wanted.model if wanted.format == "safetensors" else None
    measured = measured_afresh(folder, called=target, model=model)
    whole = draft.model_copy(update={"grade": grade(draft, measured, where=str(target)), **_shown(draft, measured)})
    storage.write(PROOF, [whole.dump()])
    return whole


def _shown(draft: Proof, measured: Measured) -> dict[str, Any]:
    found = measured.outputs
    return {
        "weights": draft.weights.model_copy(update={"identical": measured.weights_identical}),
        "difference": found and proof.Difference(absolute=found.absolute, relative=found.relative),
        "checked": proof.Checked(runtime=measured.runtime, environment=dict(measured.environment)),
    }
