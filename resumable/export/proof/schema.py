"""The schema of `proof.json`, validated field by field. PROOF.md describes it; nothing here runs a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from resumable.store.documents.strict_record import (
    BoundedCount,
    Dtype,
    HexDigest,
    Name,
    Natural,
    Number,
    Seconds,
    Sizes,
    StrictRecord,
    Text,
)
from resumable.weights.proof import PROOF_VERSION, Format, Key, ProvedWeights, Version, parsed

Grade = Literal["weights-identical", "outputs-identical", "outputs-within-tolerance"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class SourceRecord(StrictRecord):
    """The exported checkpoint, and the object in it."""

    run_id: Name
    checkpoint: Name
    step: BoundedCount
    epoch: BoundedCount
    object: Name


class FileRecord(StrictRecord):
    """One file of the artifact: its size in bytes, and the XXH3-128 of its content."""

    size: Natural
    digest: HexDigest


class Port(StrictRecord):
    """One input or output: its key in the golden file, and its name in the program or the call."""

    key: Key
    name: Text | None
    argument: Text | None = None
    dtype: Dtype
    shape: Sizes


class GoldenRecord(StrictRecord):
    """The golden input, and the live model's outputs for it."""

    file: FileName
    made_by: Literal["trainer", "export"]
    batch_size: Natural
    dynamic_batch: bool
    inputs: list[Port]
    outputs: list[Port]
    environment: dict[str, object]


class Tolerance(StrictRecord):
    """The largest absolute difference of an output that passes."""

    absolute: Annotated[float, Field(ge=0)]


class OutputDifference(StrictRecord):
    """The largest difference over all outputs: absolute, and relative to the largest number of that output."""

    absolute: Number
    relative: Number


class Checked(StrictRecord):
    """The process that loaded the artifact again, and its runtime; None for a format that needs none."""

    runtime: Text | None
    environment: dict[str, object]


class Proof(StrictRecord):
    """The content of `proof.json`; PROOF.md describes every field.

    Attributes:
        format: `safetensors`, `pt2`, `onnx` or `aoti`.
        grade: what was proved; None for an export that was killed before its proof.
        source: the run, checkpoint, step, epoch and object that were exported.
        entry: the file that a loader opens first; one of `files`.
        files: size in bytes and digest of every file except the proof.
        weights: dtype, shape and digest of every tensor of the `state_dict`.
        golden: the golden input and its outputs; None where nothing was run.
        tolerance: the largest absolute difference that passes.
        difference: the largest difference that was found.
        checked: runtime and environment of the fresh process that measured it.
        notes: one sentence for each caveat beside the numbers.
        versions: of the libraries that made it.
        created: seconds since 1970.
    """

    proof_version: Version = PROOF_VERSION
    format: Format
    grade: Grade | None
    source: SourceRecord
    entry: FileName
    files: dict[FileName, FileRecord]
    weights: ProvedWeights
    golden: GoldenRecord | None
    tolerance: Tolerance | None
    difference: OutputDifference | None
    checked: Checked | None
    notes: list[Text]
    versions: dict[str, str]
    created: Seconds

    @model_validator(mode="after")
    def _refuse_unlisted(self) -> Proof:
        """Refuse an entry or golden file that is not among the files: no digest would cover it."""
        used = {"entry": self.entry} | ({} if self.golden is None else {"golden.file": self.golden.file})
        for key, name in used.items():
            if name not in self.files:
                raise ValueError(f"{key} is {name!r}, which is not among its files")
        return self


def parse_proof(data: bytes) -> Proof:
    """Parse and validate the bytes of a `proof.json`.

    Raises `CorruptCheckpointError` for a malformed proof, `FormatVersionError` for one of a newer version.
    """
    return parsed(Proof, data)
