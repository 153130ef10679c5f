"""The JSON documents of the format, checked field by field. Independent of where they are stored."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

from pydantic import Field, model_validator

from resumable.store.documents.strict_record import (
    MAX_DIMENSIONS,
    MAX_RANKS,
    BoundedCount,
    Descent,
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
from resumable.store.layout import (
    CheckpointName,
    checkpoint_path,
    is_blob_name,
    is_blob_path,
    is_object_name,
    is_state_name,
    rank_of,
)
from resumable.utils import strict_json

FORMAT_VERSION = 3
MAX_RECORD_BYTES = 64 * 2**10
MAX_MANIFEST_BYTES = strict_json.MAX_BYTES

MAX_NAMED = 10  # one rotten file takes at most as many checkpoints with it
MAX_FEATURES = 100
MAX_NOTES_BYTES = 64 * 2**10

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


class BlobRecord(StrictRecord):
    """One file: its path within the run, which may lead into another checkpoint, and its size in bytes.

    `named` counts the checkpoints that name these bytes, this one included.
    """

    path: str
    rank: Annotated[int, Field(ge=0, lt=MAX_RANKS)]
    size: Natural
    named: Annotated[int, Field(ge=1, le=MAX_NAMED)]
    digest: HexDigest

    @model_validator(mode="after")
    def _inside_the_run(self) -> BlobRecord:
        if not is_blob_path(self.path):
            raise ValueError(f"{self.path!r} is not the path of a blob")
        return self


class ObjectRecord(StrictRecord):
    """One object that the user passed. The records of its tensors are in the state files."""

    kind: Name
    type: Text


class Mesh(StrictRecord):
    """The arrangement of the ranks, for people: a name and a size for each dimension, and the ranks on each host."""

    names: Annotated[list[Name], Field(max_length=MAX_DIMENSIONS)]
    shape: Sizes
    hosts: Annotated[list[Natural], Field(max_length=MAX_RANKS)]


class Manifest(StrictRecord):
    """The file that makes a folder a checkpoint; blobs by their file names. FORMAT.md explains every field."""

    format_version: Annotated[int, Field(ge=1, le=FORMAT_VERSION)] = FORMAT_VERSION
    features: Annotated[list[Name], Field(max_length=MAX_FEATURES)]
    notes: dict[str, Any]
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
    world: Annotated[int, Field(ge=1, le=MAX_RANKS)]
    mesh: Mesh | None
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
    def _objects_are_well_named(self) -> Manifest:
        for name in self.objects:
            if not is_object_name(name):
                raise ValueError(f"objects: {name!r} is not the name of an object")
        return self

    @model_validator(mode="after")
    def _notes_are_short(self) -> Manifest:
        length = len(strict_json.dumps(self.notes))
        if length > MAX_NOTES_BYTES:
            raise ValueError(f"notes: {length} bytes, more than the {MAX_NOTES_BYTES} allowed")
        return self

    @model_validator(mode="after")
    def _blobs_are_well_named(self) -> Manifest:
        for file_name, blob in self.blobs.items():
            if not is_blob_name(file_name):
                raise ValueError(f"blobs: {file_name!r} is not the name of a blob")
            if blob.rank >= self.world:
                raise ValueError(f"blobs.{file_name}: of rank {blob.rank}, expected less than {self.world}")
            if is_state_name(file_name) and blob.size > strict_json.MAX_BYTES:
                # Otherwise a few bytes of JSON beside a sparse file could request a terabyte of memory.
                raise ValueError(f"blobs.{file_name}: {blob.size} bytes, expected at most {strict_json.MAX_BYTES}")
        return self

    @model_validator(mode="after")
    def _blobs_keep_their_names(self) -> Manifest:
        """Refuse one file under two names, which would be read as often as it is named."""
        for file_name, blob in self.blobs.items() if self.format_version == FORMAT_VERSION else ():
            if blob.rank != rank_of(file_name):
                raise ValueError(f"blobs.{file_name}: of rank {blob.rank}, expected {rank_of(file_name)}")
            if blob.path.rpartition("/")[2] != file_name:
                raise ValueError(f"blobs.{file_name}: at {blob.path!r}, expected a file of the same name")
            if is_state_name(file_name) and (blob.named > 1 or blob.path != checkpoint_path(self.name, file_name)):
                raise ValueError(f"blobs.{file_name}: shared, which no state file is")
        return self
