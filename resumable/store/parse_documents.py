"""Parse the JSON documents of the format, of this version and of earlier ones, with errors for damaged ones."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from resumable.errors import CorruptCheckpointError, FormatVersionError
from resumable.store.manifest import FORMAT_VERSION, AttemptFile, Manifest, RunFile
from resumable.store.sealed_json import unsealed
from resumable.store.strict_record import StrictRecord, first_fault, refuse_too_many_parts
from resumable.utils import strict_json
from resumable.utils.messages import quoted

R = TypeVar("R", bound=StrictRecord)


def parse_manifest(data: bytes) -> Manifest:
    """Parse the manifest of a checkpoint.

    Raises:
        CorruptCheckpointError: It is damaged, or not a manifest.
        FormatVersionError: A newer version of the format wrote it.
    """
    return _parse(Manifest, data, "manifest.json")


def parse_run_file(data: bytes) -> RunFile:
    """Parse `run.json`; raises as `parse_manifest`."""
    return _parse(RunFile, data, "run.json")


def parse_attempt_file(data: bytes) -> AttemptFile:
    """Parse the file of an attempt; raises as `parse_manifest`."""
    return _parse(AttemptFile, data, "attempt file")


def _parse(kind: type[R], data: bytes, what: str) -> R:
    try:
        document = strict_json.loads(unsealed(data))
    except ValueError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(error)}") from error
    _refuse_newer(document, what)
    try:
        refuse_too_many_parts(document)
        return kind.model_validate(_upgraded(document))
    except ValidationError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(first_fault(error))}") from error
    except ValueError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(error)}") from error


def _upgraded(document: object) -> object:
    """Return the document as this version would have written it; `ValueError` if it mixes two versions.

    Version 1 had one blob for each object, or none: `blob` in place of `blobs`.
    """
    if not isinstance(document, dict) or type(version := document.get("format_version")) is not int or version != 1:
        return document
    upgraded = {**document, "format_version": FORMAT_VERSION}
    if isinstance(document.get("objects"), dict):
        upgraded["objects"] = {name: _upgraded_object(name, part) for name, part in document["objects"].items()}
    return upgraded


def _upgraded_object(name: str, part: object) -> object:
    if not isinstance(part, dict):
        return part
    if "blob" not in part or "blobs" in part:
        raise ValueError(f"objects.{name}: expected a blob, or null, as version 1 has it")
    rest = {key: value for key, value in part.items() if key != "blob"}
    return {**rest, "blobs": [] if part["blob"] is None else [part["blob"]]}


def _refuse_newer(document: object, what: str) -> None:
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{what}: format version {version}, expected at most {FORMAT_VERSION}",
            "it was written by a newer resumable: upgrade this one",
        )
