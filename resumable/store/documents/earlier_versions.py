"""Read manifests of versions 1 and 2: each as one of this version, and the tensor records that it held itself."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from resumable.store.documents.strict_record import (
    MAX_BLOBS,
    MAX_TENSORS,
    Dtype,
    HexDigest,
    Name,
    Sizes,
    StrictRecord,
    Text,
    refuse_more_than,
)

LAST_EARLIER_VERSION = 2

# Blobs of earlier versions have another digest, so that no later checkpoint shares them.
_NEVER_SHARED = 10


class EarlierTensorRecord(StrictRecord):
    """One tensor of a blob. Without `strides` it is row-major; with `alias` it is another name of that tensor."""

    dtype: Dtype
    shape: Sizes
    global_shape: Sizes
    offsets: Sizes
    strides: Sizes | None = None
    alias: str | None = None
    digest: HexDigest

    @model_validator(mode="after")
    def _one_number_per_dimension(self) -> EarlierTensorRecord:
        lists = [self.global_shape, self.offsets, self.shape if self.strides is None else self.strides]
        if any(len(each) != len(self.shape) for each in lists):
            raise ValueError("shape, global_shape, offsets and strides differ in length")
        return self


class EarlierObjectRecord(StrictRecord):
    """One object: its type, and the blobs that hold its tensors, each key in exactly one."""

    kind: Name
    type: Text
    blobs: list[Name]
    tensors: dict[str, EarlierTensorRecord]

    @model_validator(mode="after")
    def _blobs_for_tensors(self) -> EarlierObjectRecord:
        if len(set(self.blobs)) != len(self.blobs):
            raise ValueError("blobs: duplicate name")
        if self.tensors and not self.blobs:
            raise ValueError(f"{len(self.tensors)} tensors, and no blob for them")
        return self

    @model_validator(mode="after")
    def _aliases_lead_to_tensors(self) -> EarlierObjectRecord:
        for key, tensor in self.tensors.items():
            target = self.tensors.get(tensor.alias) if tensor.alias is not None else None
            if tensor.alias is not None and (target is None or target.alias is not None):
                raise ValueError(f"{key!r} is an alias of {tensor.alias!r}, which is no tensor of its own")
            if target is not None and tensor.model_copy(update={"alias": None}) != target:
                raise ValueError(f"{key!r} is an alias of {tensor.alias!r}, which is another tensor")
        return self


class EarlierObjects(StrictRecord):
    """The objects of a manifest of version 1 or 2, with their tensors."""

    objects: dict[str, EarlierObjectRecord]


def is_earlier(version: object) -> bool:
    """Return whether this is the number of an earlier version."""
    return type(version) is int and 1 <= version <= LAST_EARLIER_VERSION


def upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of version 1 or 2 as this version would hold it; without the tensors of its objects.

    Raises:
        ValueError: It mixes two versions.
    """
    added: dict[str, Any] = {"features": [], "notes": {}, "mesh": None}
    if mixed := added.keys() & document.keys():
        raise ValueError(f"{min(mixed)}: not a key of version {document['format_version']}")
    document = document | added
    if isinstance(objects := document.get("objects"), dict):
        document["objects"] = {name: _without_tensors(name, part, document) for name, part in objects.items()}
    if isinstance(blobs := document.get("blobs"), dict):
        document["blobs"] = {name: _with_age(name, part, document) for name, part in blobs.items()}
    return document


def earlier_objects(document: dict[str, Any]) -> EarlierObjects:
    """Return the objects of a manifest of version 1 or 2 with their tensors; `ValueError` if they are malformed."""
    objects = document.get("objects")
    if document["format_version"] == 1 and isinstance(objects, dict):
        objects = {name: _of_version_2(part) for name, part in objects.items()}
    refuse_too_many_tensors(objects)
    return EarlierObjects.model_validate({"objects": objects})


def refuse_too_many_tensors(objects: object) -> None:
    """Raise `ValueError` for more tensors than a manifest may have, before each of them becomes a record."""
    parts = [part for part in objects.values() if isinstance(part, dict)] if isinstance(objects, dict) else []
    for what, most in (("tensors", MAX_TENSORS), ("blobs", MAX_BLOBS)):
        refuse_more_than(most, what, sum(len(part[what]) for part in parts if isinstance(part.get(what), dict | list)))


def _without_tensors(name: str, part: object, document: dict[str, Any]) -> object:
    if not isinstance(part, dict):
        return part
    expected = {"blob", "tensors"} if document["format_version"] == 1 else {"blobs", "tensors"}
    if not part.keys() >= expected or {"blob", "blobs"} & part.keys() - expected:
        raise ValueError(f"objects.{name}: expected {' and '.join(sorted(expected))}")
    return {key: value for key, value in part.items() if key not in expected}


def _with_age(name: str, part: object, document: dict[str, Any]) -> object:
    if isinstance(part, dict) and "named" in part:
        raise ValueError(f"blobs.{name}.named: not a key of version {document['format_version']}")
    return part | {"named": _NEVER_SHARED} if isinstance(part, dict) else part


def _of_version_2(part: object) -> object:
    """Return an object of version 1, which had one blob or none, as version 2 would have written it."""
    if not isinstance(part, dict) or "blob" not in part:
        return part
    rest = {key: value for key, value in part.items() if key != "blob"}
    return {**rest, "blobs": [] if part["blob"] is None else [part["blob"]]}
