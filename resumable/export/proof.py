"""`proof.json`: what an exported model was shown to be, checked field by field; runs nothing. PROOF.md describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from resumable import strictjson
from resumable.errors import CorruptCheckpointError, FormatVersionError, quoted
from resumable.store.manifest import (
    Count,
    Digest,
    Dtype,
    Name,
    Natural,
    Number,
    Record,
    Seconds,
    Sizes,
    Text,
    first_fault,
    undamaged,
)

PROOF_VERSION = 1
MAX_BYTES = 32 * 2**20

WEIGHTS_IDENTICAL = "weights-identical"
OUTPUTS_IDENTICAL = "outputs-identical"
OUTPUTS_WITHIN_TOLERANCE = "outputs-within-tolerance"

Grade = Literal["weights-identical", "outputs-identical", "outputs-within-tolerance"]
Format = Literal["safetensors", "pt2", "onnx", "aoti"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Key = Annotated[str, Field(max_length=4096)]


class Source(Record):
    """The checkpoint, and the object in it, that was carried over."""

    run_id: Name
    checkpoint: Name
    step: Count
    epoch: Count
    object: Name


class FileRecord(Record):
    """One file of the artefact: its bytes, and XXH3-128 of them."""

    size: Natural
    digest: Digest


class WeightRecord(Record):
    """One tensor: XXH3-128 of its bytes in row-major order, little-endian."""

    dtype: Dtype
    shape: Sizes
    digest: Digest


class Weights(Record):
    """The tensors that were to be carried over, by the names of the `state_dict`; `tied`: another name of which one.

    `identical` says whether those in the artefact have these very bits; None where its format has no such tensors.
    """

    cast_to: Dtype | None
    identical: bool | None
    tensors: dict[Key, WeightRecord]
    tied: dict[Key, Key]


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
    """Where the artefact was loaded again, and with what it was run; None where nothing was."""

    runtime: Text | None
    environment: dict[str, Any]


class Proof(Record):
    """The whole document."""

    proof_version: Annotated[int, Field(ge=PROOF_VERSION, le=PROOF_VERSION)] = PROOF_VERSION
    format: Format
    grade: Grade | None
    source: Source
    entry: FileName
    files: dict[FileName, FileRecord]
    weights: Weights
    golden: Known | None
    tolerance: Tolerance | None
    difference: Difference | None
    checked: Checked | None
    notes: list[Text]
    versions: dict[str, str]
    created: Seconds


def parse(data: bytes) -> Proof:
    """The document of these bytes.

    `CorruptCheckpointError` says what is wrong with it, `FormatVersionError` that it is newer than this program.
    """
    try:
        document = strictjson.loads(undamaged(data), max_bytes=MAX_BYTES)
        _refuse_newer(document)
        return Proof.model_validate(document)
    except ValidationError as error:
        raise CorruptCheckpointError(f"proof.json: {quoted(first_fault(error))}", _AGAIN) from error
    except ValueError as error:
        raise CorruptCheckpointError(f"proof.json: {quoted(error)}", _AGAIN) from error


_AGAIN = "export the model again, or copy the whole folder again"


def _refuse_newer(document: Any) -> None:
    version = document.get("proof_version") if isinstance(document, dict) else None
    if type(version) is int and version > PROOF_VERSION:
        raise FormatVersionError(
            f"proof.json: version {version}, expected at most {PROOF_VERSION}",
            "it was written by a newer resumable: upgrade this one",
        )
