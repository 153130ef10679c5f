"""The part of an export's `proof.json` that describes weights. Reads no file."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resumable.errors import CorruptCheckpointError, FormatVersionError
from resumable.store.documents.sealed_json import unsealed
from resumable.store.documents.strict_record import Dtype, HexDigest, Sizes, StrictRecord, first_fault
from resumable.utils import strict_json
from resumable.utils.messages import quoted

PROOF = "proof.json"
GOLDEN_FILE = "golden.safetensors"
PROOF_VERSION = 1
MAX_BYTES = 32 * 2**20

Version = Annotated[int, Field(ge=PROOF_VERSION, le=PROOF_VERSION)]
Format = Literal["safetensors", "pt2", "onnx", "aoti"]
Key = Annotated[str, Field(max_length=4096)]

P = TypeVar("P", bound=BaseModel)


class WeightRecord(StrictRecord):
    """One tensor: XXH3-128 of its bytes in row-major order, little-endian."""

    dtype: Dtype
    shape: Sizes
    digest: HexDigest

    @property
    def strides(self) -> None:
        """Return None: the tensor is stored in row-major order."""


class ProvedWeights(StrictRecord):
    """The tensors of the exported model by their names in its `state_dict`.

    `tied` maps each alias to the name that is stored. `identical` is true if the tensors in the artifact have the same
    bits; None where its format holds no such tensors.
    """

    cast_to: Dtype | None
    identical: bool | None
    tensors: dict[Key, WeightRecord]
    tied: dict[Key, Key]


class WeightsProof(BaseModel):
    """The fields of a proof that describe weights; others are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", defer_build=True)

    proof_version: Version
    format: Format
    weights: ProvedWeights


def document_of(data: bytes) -> object:
    """Return the JSON of an undamaged proof; `ValueError` for damage, `FormatVersionError` for a newer version."""
    document = strict_json.loads(unsealed(data), max_bytes=MAX_BYTES)
    version = document.get("proof_version") if isinstance(document, dict) else None
    if type(version) is int and version > PROOF_VERSION:
        raise FormatVersionError(
            f"{PROOF}: version {version}, expected at most {PROOF_VERSION}",
            "it was written by a newer resumable: upgrade this one",
        )
    return document


def parse(data: bytes) -> WeightsProof:
    """Parse the fields that describe weights. Raises `CorruptCheckpointError` and `FormatVersionError`."""
    return parsed(WeightsProof, data)


def parsed(kind: type[P], data: bytes) -> P:
    """Parse a proof, or the part of one that `kind` describes; raises as `parse`."""
    try:
        return kind.model_validate(document_of(data))
    except ValidationError as error:
        raise damaged(first_fault(error)) from error
    except ValueError as error:
        raise damaged(error) from error


def damaged(fault: object) -> CorruptCheckpointError:
    """Return the error for a proof that is damaged by `fault`."""
    return CorruptCheckpointError(f"{PROOF}: {quoted(fault)}", "export the model again, or copy the whole folder again")
