"""The JSON documents of the format, checked field by field; knows nothing of where they lie.

Every document ends in a digest of its own bytes, so that damage is told from a newer version of the format.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import xxhash
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from resumable.errors import CorruptCheckpointError, FormatVersionError, StateError
from resumable.store.layout import MAX_NUMBER, CheckpointName, is_blob_name, is_blob_path, is_object_name
from resumable.utils import strict_json
from resumable.utils.messages import quoted

FORMAT_VERSION = 2
MAX_RECORD_BYTES = 64 * 2**10
MAX_MANIFEST_BYTES = strict_json.MAX_BYTES
MAX_TENSORS = 250_000
MAX_OBJECTS = 10_000
MAX_BLOBS = 100_000
MAX_LINEAGE = 100_000
MAX_DIMENSIONS = 64

# What a blob may take up besides its tensors: the header of one, or all of a JSON document.
MAX_OVERHEAD_BYTES = 8 + strict_json.MAX_BYTES
WIDEST_ITEM_BYTES = 16

# The last bytes of every document, in this and in all later versions of the format.
_TRAILER = re.compile(rb',"digest":"([0-9a-f]{32})"\}')
_TRAILER_BYTES = len(b',"digest":""}') + 32


def digest(data: bytes | bytearray | memoryview) -> str:
    """XXH3-128 in 32 hexadecimal digits: finds damage, proves nothing against a forger."""
    return xxhash.xxh3_128_hexdigest(data)


def _from_text(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _to_text(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _plain(value: Any) -> Any:
    if value is not None and type(value) not in (int, str):
        raise ValueError(f"a {type(value).__name__}, expected a number or a word")
    return value


Natural = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Sizes = Annotated[list[Natural], Field(max_length=MAX_DIMENSIONS)]
Seconds = Annotated[float, Field(ge=0, lt=250_000_000_000)]  # since 1970; the calendars of programs end in year 9999
Number = Annotated[float, BeforeValidator(_from_text), PlainSerializer(_to_text)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=1000)]
Plain = Annotated[Any, BeforeValidator(_plain)]
Dtype = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
Descent = Annotated[tuple[Count, Name | None], Field(strict=False)]
FormatVersion = Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]


class Record(BaseModel):
    """One document, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    def dump(self) -> bytes:
        """The document as JSON; its last key is `digest`, of the same bytes without that key."""
        document = self.model_dump()
        try:
            _refuse_too_much(document)
            body = strict_json.dumps(document)
        except ValueError as error:
            raise StateError(
                f"no reader would take this {type(self).__name__.lower()}: {quoted(error)}",
                "keep the state in fewer and larger tensors",
            ) from error
        return body[:-1] + b',"digest":"%s"}' % digest(body).encode()


class RunFile(Record):
    """`run.json`: what is settled once for all attempts."""

    format_version: FormatVersion = FORMAT_VERSION
    run_id: Name
    data_seed: int
    created: Seconds

    @classmethod
    def new(cls, *, data_seed: int) -> RunFile:
        """That of a run which begins now, under an id of its own."""
        return cls(run_id=secrets.token_hex(16), data_seed=data_seed, created=time.time())


class AttemptFile(Record):
    """`attempts/000003.json`: one launch of the program, its time in seconds since 1970."""

    format_version: FormatVersion = FORMAT_VERSION
    attempt: Count
    token: Name
    host: Text
    pid: Natural
    started: Seconds


class TensorRecord(Record):
    """One tensor of a blob. Without `strides` it is row-major; with `alias` it is another name of that tensor."""

    dtype: Dtype
    shape: Sizes
    global_shape: Sizes
    offsets: Sizes
    strides: Sizes | None = None
    alias: str | None = None
    digest: Digest

    @model_validator(mode="after")
    def _one_number_per_dimension(self) -> TensorRecord:
        others = [self.global_shape, self.offsets, self.shape if self.strides is None else self.strides]
        if any(len(other) != len(self.shape) for other in others):
            raise ValueError("shape, global_shape, offsets and strides differ in length")
        return self

    @property
    def elements(self) -> int:
        """How many of its elements lie in the blob: none of an alias."""
        return math.prod(self.shape) if self.alias is None else 0


class BlobRecord(Record):
    """One file: its path within the run, which may lead into another checkpoint, and its size in bytes."""

    path: str
    rank: Annotated[int, Field(ge=0, lt=100_000)]
    size: Natural
    digest: Digest

    @model_validator(mode="after")
    def _inside_the_run(self) -> BlobRecord:
        if not is_blob_path(self.path):
            raise ValueError(f"{self.path!r} is not the path of a blob")
        return self


class ObjectRecord(Record):
    """One object the user passed: what it was, and which blobs hold its tensors, each key in exactly one of them."""

    kind: Name
    type: Text
    blobs: list[Name]
    tensors: dict[str, TensorRecord]

    @model_validator(mode="after")
    def _blobs_for_tensors(self) -> ObjectRecord:
        if len(set(self.blobs)) != len(self.blobs):
            raise ValueError("blobs: one of them stands twice")
        if self.tensors and not self.blobs:
            raise ValueError(f"{len(self.tensors)} tensors, and no blob for them")
        return self

    @model_validator(mode="after")
    def _aliases_lead_to_tensors(self) -> ObjectRecord:
        for key, tensor in self.tensors.items():
            target = self.tensors.get(tensor.alias) if tensor.alias is not None else None
            if tensor.alias is not None and (target is None or target.alias is not None):
                raise ValueError(f"{key!r} is an alias of {tensor.alias!r}, which is no tensor of its own")
            if target is not None and tensor.model_copy(update={"alias": None}) != target:
                raise ValueError(f"{key!r} is an alias of {tensor.alias!r}, which is another tensor")
        return self


class Manifest(Record):
    """What makes a folder a checkpoint; blobs are keyed by their file names. FORMAT.md explains every field."""

    format_version: FormatVersion = FORMAT_VERSION
    run_id: Name
    attempt: Count
    token: Name
    lineage: list[Descent]
    step: Count
    epoch: Count
    position: dict[str, Plain]
    metrics: dict[str, Number]
    config: dict[str, Any]
    versions: dict[str, str]
    environment: dict[str, Any]
    world: Annotated[int, Field(ge=1, lt=2**31)]
    finished: bool
    reason: Text
    created: Seconds
    objects: dict[str, ObjectRecord]
    blobs: dict[str, BlobRecord]

    @property
    def name(self) -> CheckpointName:
        """The name of the checkpoint that this is the manifest of."""
        return CheckpointName(self.step, self.epoch, self.attempt)

    @model_validator(mode="after")
    def _lineage_leads_here(self) -> Manifest:
        before: int | None = None
        for attempt, resumed_from in self.lineage:
            parent = CheckpointName.parse(resumed_from) if resumed_from is not None else None
            known = parent is not None if resumed_from is not None else True
            if not known or (parent.attempt if parent else None) != before or attempt <= (before or 0):
                raise ValueError(f"lineage: attempt {attempt} cannot have resumed from {resumed_from}")
            before = attempt
        if before != self.attempt:
            raise ValueError(f"lineage: ends in attempt {before}, expected {self.attempt}")
        return self

    @model_validator(mode="after")
    def _blobs_are_named_and_known(self) -> Manifest:
        for file_name in self.blobs:
            if not is_blob_name(file_name):
                raise ValueError(f"blobs: {file_name!r} is not the name of a blob")
        for name, record in self.objects.items():
            if not is_object_name(name):
                raise ValueError(f"objects: {name!r} is not the name of an object")
            for wanted in record.blobs:
                if wanted not in self.blobs:
                    raise ValueError(f"objects.{name}: its blob {wanted!r} is not among the blobs")
        return self

    @model_validator(mode="after")
    def _blobs_are_no_larger_than_what_is_in_them(self) -> Manifest:
        # So that a few bytes of JSON beside a sparse file do not ask for a terabyte of memory.
        elements = dict.fromkeys(self.blobs, 0)
        for record in self.objects.values():
            recorded = sum(tensor.elements for tensor in record.tensors.values()) if record.blobs else 0
            for holding in record.blobs:
                elements[holding] += recorded
        for file_name, blob in self.blobs.items():
            most = MAX_OVERHEAD_BYTES + WIDEST_ITEM_BYTES * elements[file_name]
            if blob.size > most:
                raise ValueError(
                    f"blobs.{file_name}: {blob.size} bytes; what is recorded of it takes up {most} at most"
                )
        return self


R = TypeVar("R", bound=Record)

_PARTS = {"blobs": MAX_BLOBS, "lineage": MAX_LINEAGE}


def _is_sized(value: Any) -> bool:
    return isinstance(value, dict | list)


def parse(data: bytes) -> Manifest:
    """A checkpoint's manifest; `CorruptCheckpointError` says what is wrong, `FormatVersionError` that it is newer."""
    return _parse(Manifest, data, "manifest.json")


def parse_run_file(data: bytes) -> RunFile:
    """`run.json`; raises as `parse`."""
    return _parse(RunFile, data, "run.json")


def parse_attempt_file(data: bytes) -> AttemptFile:
    """An attempt's file; raises as `parse`."""
    return _parse(AttemptFile, data, "attempt file")


def _parse(kind: type[R], data: bytes, what: str) -> R:
    try:
        document = strict_json.loads(undamaged(data))
    except ValueError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(error)}") from error
    _refuse_newer(document, what)
    try:
        _refuse_too_much(document)
        return kind.model_validate(_upgraded(document))
    except ValidationError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(first_fault(error))}") from error
    except ValueError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(error)}") from error


def _refuse_too_much(document: Any) -> None:
    """`ValueError` for more parts than a manifest may have: counted before each of them becomes a record."""
    if not isinstance(document, dict):
        return
    objects = document.get("objects")
    parts = objects.values() if isinstance(objects, dict) else ()
    for what, count, most in (
        ("objects", len(parts), MAX_OBJECTS),
        ("tensors", _count_in(parts, "tensors"), MAX_TENSORS),
        ("blobs of objects", _count_in(parts, "blobs"), MAX_BLOBS),
        *((name, len(document[name]), most) for name, most in _PARTS.items() if _is_sized(document.get(name))),
    ):
        if count > most:
            raise ValueError(f"{count} {what}, more than the {most} allowed")


def _count_in(parts: Iterable[Any], key: str) -> int:
    return sum(len(part[key]) for part in parts if isinstance(part, dict) and _is_sized(part.get(key)))


def _upgraded(document: Any) -> Any:
    """The document as this version would have written it; `ValueError` for one that mixes two versions.

    Version 1 had one blob for each object, or none: `blob` in place of `blobs`.
    """
    if not isinstance(document, dict) or type(version := document.get("format_version")) is not int or version != 1:
        return document
    upgraded = {**document, "format_version": FORMAT_VERSION}
    if isinstance(document.get("objects"), dict):
        upgraded["objects"] = {name: _upgraded_object(name, part) for name, part in document["objects"].items()}
    return upgraded


def _upgraded_object(name: str, part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if "blob" not in part or "blobs" in part:
        raise ValueError(f"objects.{name}: expected a blob, or null, as version 1 has it")
    rest = {key: value for key, value in part.items() if key != "blob"}
    return {**rest, "blobs": [] if part["blob"] is None else [part["blob"]]}


def undamaged(data: bytes) -> bytes:
    """The document without its digest, which fits; `ValueError` otherwise."""
    trailer = _TRAILER.fullmatch(data[-_TRAILER_BYTES:])
    if not trailer:
        raise ValueError("cut short, or not of this format: no digest at its end")
    body = data[:-_TRAILER_BYTES] + b"}"
    if digest(body) != trailer[1].decode():
        raise ValueError("its digest differs")
    return body


def _refuse_newer(document: Any, what: str) -> None:
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{what}: format version {version}, expected at most {FORMAT_VERSION}",
            "it was written by a newer resumable: upgrade this one",
        )


def first_fault(error: ValidationError) -> str:
    """What is wrong with a document, and where in it: the first thing that was found."""
    found = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    message = found["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
