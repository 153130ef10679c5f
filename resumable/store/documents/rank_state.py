"""The state file of one rank: what is not a tensor, and in columns the pieces of tensors that the rank wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from resumable.store.documents.strict_record import (
    MAX_BLOBS,
    MAX_DIMENSIONS,
    MAX_TENSORS,
    Dtype,
    Name,
    Natural,
    StrictRecord,
    first_fault,
    refuse_more_than,
)
from resumable.utils import strict_json

DIGEST_DIGITS = 32

# A tuple takes less memory than a list, and the records of the tensors can share it.
_Sizes = Annotated[tuple[Natural, ...], Field(max_length=MAX_DIMENSIONS, strict=False)]
_Digests = Annotated[str, Field(pattern=r"^([0-9a-f]{32})*$")]


class PieceColumns(StrictRecord):
    """The pieces of one object's tensors, a column for each fact.

    `key` and `blob` are indices into the keys and blobs of the object. `begin` is the first byte in the blob. `offsets`
    and `shape` are None for a whole tensor. `own` lists the pieces that are this rank's copy of a part that other ranks
    hold with other bytes. `digest` holds 32 hexadecimal digits for each piece.
    """

    key: list[Natural]
    blob: list[Natural]
    begin: list[Natural]
    offsets: list[_Sizes | None]
    shape: list[_Sizes | None]
    own: list[Natural]
    digest: _Digests

    @model_validator(mode="after")
    def _of_equal_length(self) -> PieceColumns:
        count = len(self.key)
        columns = (self.blob, self.begin, self.offsets, self.shape)
        if any(len(column) != count for column in columns) or len(self.digest) != DIGEST_DIGITS * count:
            raise ValueError("the columns of the pieces differ in length")
        if any(index >= count for index in self.own) or self.own != sorted(set(self.own)):
            raise ValueError("own: not an ascending list of pieces")
        return self

    def digest_of(self, index: int) -> str:
        """Return the XXH3-128 (hex) of the bytes of one piece."""
        return self.digest[DIGEST_DIGITS * index : DIGEST_DIGITS * (index + 1)]


class ObjectColumns(StrictRecord):
    """The tensors of one object, of which this rank wrote pieces: a column for each fact, and what few of them have."""

    keys: list[str]
    dtypes: list[Dtype]
    shapes: list[_Sizes]
    strides: dict[str, _Sizes]
    aliases: dict[str, str]
    blobs: list[Name]
    pieces: PieceColumns

    @model_validator(mode="after")
    def _consistent(self) -> ObjectColumns:
        keys = set(self.keys)
        if not len(keys) == len(self.keys) == len(self.dtypes) == len(self.shapes):
            raise ValueError("keys, dtypes and shapes differ in length, or a key is there twice")
        if len(set(self.blobs)) != len(self.blobs):
            raise ValueError("blobs: duplicate name")
        if not self.strides.keys() <= keys or not self.aliases.keys() <= keys:
            raise ValueError("strides or aliases: not a key of this object")
        if any(index >= len(self.keys) for index in self.pieces.key):
            raise ValueError("pieces.key: not the index of a key")
        if any(index >= len(self.blobs) for index in self.pieces.blob):
            raise ValueError("pieces.blob: not the index of a blob")
        return self


class RankState(StrictRecord):
    """A state file: a document of the codec for each object, for the RNG streams and for the position; and records.

    `notes` inform and decide nothing. `ranges` holds the digests of the ranges of each blob that this rank wrote, 32
    hexadecimal digits each.
    """

    objects: dict[str, Any]
    rng: Any
    position: Any
    data: dict[str, Any] = Field(default_factory=dict)
    communication: dict[str, Any] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)
    ranges: dict[str, _Digests]
    tensors: dict[str, ObjectColumns]


def parse_rank_state(data: bytes) -> RankState:
    """Parse the state file of a rank; raise `ValueError` for anything the format does not allow."""
    document = strict_json.loads(data)
    refuse_too_many_pieces(document.get("tensors") if isinstance(document, dict) else None)
    try:
        return RankState.model_validate(document)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error


def parse_earlier_rank_state(data: bytes) -> RankState:
    """Parse a state file of version 1 or 2, as one without records of tensors; raises as `parse_rank_state`."""
    document = strict_json.loads(data)
    if not isinstance(document, dict) or document.keys() != {"objects", "rng", "position"}:
        raise ValueError("not a document for each object, rng and position")
    try:
        return RankState.model_validate({**document, "ranges": {}, "tensors": {}})
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error


def dump_rank_state(
    documents: Mapping[str, object], *, ranges: Mapping[str, str], tensors: Mapping[str, Mapping[str, object]]
) -> bytes:
    """Return the state file of these documents (`objects`, `rng`, `position`, `notes`), ranges and columns.

    Raises:
        ValueError: It exceeds the limits of the format.
    """
    refuse_too_many_pieces(tensors)
    return strict_json.dumps({**documents, "ranges": ranges, "tensors": tensors})


def refuse_too_many_pieces(tensors: object) -> None:
    """Raise `ValueError` for more keys or pieces than a state file may have, before each of them becomes a record."""
    parts = [part for part in tensors.values() if isinstance(part, dict)] if isinstance(tensors, dict) else []
    refuse_more_than(MAX_TENSORS, "tensors", sum(map(len, (_sized(part.get("keys")) for part in parts))))
    refuse_more_than(MAX_BLOBS, "blobs of objects", sum(map(len, (_sized(part.get("blobs")) for part in parts))))
    pieces = [part["pieces"] for part in parts if isinstance(part.get("pieces"), dict)]
    refuse_more_than(MAX_TENSORS, "pieces", sum(len(_sized(each.get("key"))) for each in pieces))


def _sized(value: object) -> list[object]:
    return value if isinstance(value, list) else []
