"""The JSON documents of the format, checked field by field. Independent of where they are stored."""

from __future__ import annotations

import math
import secrets
import time
from typing import Annotated, Any

from pydantic import Field, model_validator

from resumable.store.layout import CheckpointName, is_blob_name, is_blob_path, is_object_name
from resumable.store.strict_record import (
    BoundedCount,
    Descent,
    Dtype,
    HexDigest,
    Name,
    Natural,
    Number,
    PlainValue,
    Seconds,
    Sizes,
    StrictRecord,
    Text,
)
from resumable.utils import strict_json

FORMAT_VERSION = 2
MAX_RECORD_BYTES = 64 * 2**10
MAX_MANIFEST_BYTES = strict_json.MAX_BYTES

# The most that a blob takes up besides its tensors: the header of one, or all of a JSON document.
MAX_OVERHEAD_BYTES = 8 + strict_json.MAX_BYTES
WIDEST_ITEM_BYTES = 16

FormatVersion = Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]


class RunFile(StrictRecord):
    """`run.json`: what is the same for all attempts of a run."""

    format_version: FormatVersion = FORMAT_VERSION
    run_id: Name
    data_seed: int
    created: Seconds

    @classmethod
    def new(cls, *, data_seed: int) -> RunFile:
        """Return the file of a run that begins now, under an id of its own."""
        return cls(run_id=secrets.token_hex(16), data_seed=data_seed, created=time.time())


class AttemptFile(StrictRecord):
    """`attempts/000003.json`: one launch of the program, its time in seconds since 1970."""

    format_version: FormatVersion = FORMAT_VERSION
    attempt: BoundedCount
    token: Name
    host: Text
    pid: Natural
    started: Seconds


class TensorRecord(StrictRecord):
    """One tensor of a blob. Without `strides` it is row-major; with `alias` it is another name of that tensor."""

    dtype: Dtype
    shape: Sizes
    global_shape: Sizes
    offsets: Sizes
    strides: Sizes | None = None
    alias: str | None = None
    digest: HexDigest

    @model_validator(mode="after")
    def _one_number_per_dimension(self) -> TensorRecord:
        lists = [self.global_shape, self.offsets, self.shape if self.strides is None else self.strides]
        if any(len(each) != len(self.shape) for each in lists):
            raise ValueError("shape, global_shape, offsets and strides differ in length")
        return self

    @property
    def elements(self) -> int:
        """Return how many of its elements the blob holds: 0 for an alias."""
        return math.prod(self.shape) if self.alias is None else 0


class BlobRecord(StrictRecord):
    """One file: its path within the run, which may lead into another checkpoint, and its size in bytes."""

    path: str
    rank: Annotated[int, Field(ge=0, lt=100_000)]
    size: Natural
    digest: HexDigest

    @model_validator(mode="after")
    def _inside_the_run(self) -> BlobRecord:
        if not is_blob_path(self.path):
            raise ValueError(f"{self.path!r} is not the path of a blob")
        return self


class ObjectRecord(StrictRecord):
    """One object that the user passed: its type, and the blobs that hold its tensors, each key in exactly one."""

    kind: Name
    type: Text
    blobs: list[Name]
    tensors: dict[str, TensorRecord]

    @model_validator(mode="after")
    def _blobs_for_tensors(self) -> ObjectRecord:
        if len(set(self.blobs)) != len(self.blobs):
            raise ValueError("blobs: duplicate name")
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


class Manifest(StrictRecord):
    """The file that makes a folder a checkpoint; blobs by their file names. FORMAT.md explains every field."""

    format_version: FormatVersion = FORMAT_VERSION
    run_id: Name
    attempt: BoundedCount
    token: Name
    lineage: list[Descent]
    step: BoundedCount
    epoch: BoundedCount
    position: dict[str, PlainValue]
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
        """Return the name of the checkpoint."""
        return CheckpointName(self.step, self.epoch, self.attempt)

    @model_validator(mode="after")
    def _lineage_leads_here(self) -> Manifest:
        before: int | None = None
        for attempt, resumed_from in self.lineage:
            parent = CheckpointName.parse(resumed_from) if resumed_from is not None else None
            well_named = parent is not None if resumed_from is not None else True
            if not well_named or (parent.attempt if parent else None) != before or attempt <= (before or 0):
                raise ValueError(f"lineage: attempt {attempt} cannot have resumed from {resumed_from}")
            before = attempt
        if before != self.attempt:
            raise ValueError(f"lineage: ends in attempt {before}, expected {self.attempt}")
        return self

    @model_validator(mode="after")
    def _blobs_are_well_named_and_listed(self) -> Manifest:
        for file_name in self.blobs:
            if not is_blob_name(file_name):
                raise ValueError(f"blobs: {file_name!r} is not the name of a blob")
        for name, record in self.objects.items():
            if not is_object_name(name):
                raise ValueError(f"objects: {name!r} is not the name of an object")
            for blob in record.blobs:
                if blob not in self.blobs:
                    raise ValueError(f"objects.{name}: its blob {blob!r} is not among the blobs")
        return self

    @model_validator(mode="after")
    def _blobs_are_no_larger_than_what_is_in_them(self) -> Manifest:
        # Otherwise a few bytes of JSON beside a sparse file could request a terabyte of memory.
        elements = dict.fromkeys(self.blobs, 0)
        for record in self.objects.values():
            recorded = sum(tensor.elements for tensor in record.tensors.values()) if record.blobs else 0
            for holding in record.blobs:
                elements[holding] += recorded
        for file_name, blob in self.blobs.items():
            most = MAX_OVERHEAD_BYTES + WIDEST_ITEM_BYTES * elements[file_name]
            if blob.size > most:
                raise ValueError(f"blobs.{file_name}: {blob.size} bytes, expected at most {most} for its tensors")
        return self
