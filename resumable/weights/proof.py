"""What a proof beside exported weights says of each of them; knows no file, and nothing else that a proof says."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resumable.errors import CorruptCheckpointError, FormatVersionError
from resumable.store.manifest import Digest, Dtype, Record, Sizes, first_fault, undamaged
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


class WeightRecord(Record):
    """One tensor: XXH3-128 of its bytes in row-major order, little-endian."""

    dtype: Dtype
    shape: Sizes
    digest: Digest

    @property
    def strides(self) -> None:
        """None: it lies in row-major order."""


class Weights(Record):
    """The tensors that were to be carried over, by the names of the `state_dict`; `tied`: another name of which one.

    `identical` says whether those in the artefact have these very bits; None where its format has no such tensors.
    """

    cast_to: Dtype | None
    identical: bool | None
    tensors: dict[Key, WeightRecord]
    tied: dict[Key, Key]


class Proved(BaseModel):
    """The part of a proof that is about weights."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", defer_build=True)

    proof_version: Version
    format: Format
    weights: Weights


def document_of(data: bytes) -> Any:
    """The JSON of a proof that is undamaged; `ValueError` otherwise, `FormatVersionError` for a newer one."""
    document = strict_json.loads(undamaged(data), max_bytes=MAX_BYTES)
    version = document.get("proof_version") if isinstance(document, dict) else None
    if type(version) is int and version > PROOF_VERSION:
        raise FormatVersionError(
            f"{PROOF}: version {version}, expected at most {PROOF_VERSION}",
            "it was written by a newer resumable: upgrade this one",
        )
    return document


def parse(data: bytes) -> Proved:
    """What these bytes prove of weights; `CorruptCheckpointError` and `FormatVersionError` as for a whole proof."""
    return parsed(Proved, data)


def parsed(kind: type[P], data: bytes) -> P:
    """A proof, or the part of one that `kind` is; raises as `parse`."""
    try:
        return kind.model_validate(document_of(data))
    except ValidationError as error:
        raise damaged(first_fault(error)) from error
    except ValueError as error:
        raise damaged(error) from error


def damaged(fault: object) -> CorruptCheckpointError:
    """A proof that is none, and what is wrong with it."""
    return CorruptCheckpointError(f"{PROOF}: {quoted(fault)}", "export the model again, or copy the whole folder again")
