"""`proof.json`: what an exported model was shown to be, checked field by field; runs nothing. PROOF.md describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from resumable.store.manifest import Count, Digest, Dtype, Name, Natural, Number, Record, Seconds, Sizes, Text
from resumable.weights.proof import PROOF_VERSION, Format, Key, ProvedWeights, Version, parsed

Grade = Literal["weights-identical", "outputs-identical", "outputs-within-tolerance"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class Source(Record):
    """The checkpoint, and the object in it, that was carried over."""

    run_id: Name
    checkpoint: Name
    step: Count
    epoch: Count
    object: Name


class FileRecord(Record):
    """One file of the artifact: its bytes, and XXH3-128 of them."""

    size: Natural
    digest: Digest


class Port(Record):
    """One input or output: its key in the golden file, and how the program calls it."""

    key: Key
    name: Text | None
    argument: Text | None = None
    dtype: Dtype
    shape: Sizes


class Known(Record):
    """The golden input, and what the live model gave for it."""

    file: FileName
    made_by: Literal["trainer", "export"]
    batch_size: Natural
    dynamic_batch: bool
    inputs: list[Port]
    outputs: list[Port]
    environment: dict[str, Any]


class Tolerance(Record):
    """The largest absolute difference of an output that passes."""

    absolute: Annotated[float, Field(ge=0)]


class Difference(Record):
    """The largest over all outputs: absolute, and relative to the largest number of that output."""

    absolute: Number
    relative: Number


class Checked(Record):
    """Where the artifact was loaded again, and with what it was run; None where nothing was."""

    runtime: Text | None
    environment: dict[str, Any]


class Proof(Record):
    """The whole document."""

    proof_version: Version = PROOF_VERSION
    format: Format
    grade: Grade | None
    source: Source
    entry: FileName
    files: dict[FileName, FileRecord]
    weights: ProvedWeights
    golden: Known | None
    tolerance: Tolerance | None
    difference: Difference | None
    checked: Checked | None
    notes: list[Text]
    versions: dict[str, str]
    created: Seconds

    @model_validator(mode="after")
    def _refuse_unlisted(self) -> Proof:
        """What is loaded is among the files, or no digest would cover it."""
        used = {"entry": self.entry} | ({} if self.golden is None else {"golden.file": self.golden.file})
        for key, name in used.items():
            if name not in self.files:
                raise ValueError(f"{key} is {name!r}, which is not among its files")
        return self


def parse(data: bytes) -> Proof:
    """The document of these bytes.

    `CorruptCheckpointError` says what is wrong with it, `FormatVersionError` that it is newer than this program.
    """
    return parsed(Proof, data)
