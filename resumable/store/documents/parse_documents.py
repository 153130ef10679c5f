"""Parse the JSON documents of the format, of this version and of earlier ones, with errors for damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from resumable.errors import CorruptCheckpointError, FormatVersionError
from resumable.store.documents.earlier_versions import EarlierObjects, earlier_objects, is_earlier, upgraded
from resumable.store.documents.manifest import FORMAT_VERSION, AttemptFile, Manifest, RunFile
from resumable.store.documents.sealed_json import unsealed
from resumable.store.documents.strict_record import StrictRecord, first_fault, refuse_too_many_parts
from resumable.utils import strict_json
from resumable.utils.messages import quoted

KNOWN_FEATURES = frozenset({"carried", "containers", "dataset_states", "parts", "sampling_orders"})

R = TypeVar("R", bound=StrictRecord)


def parse_manifest(data: bytes) -> Manifest:
    """Parse the manifest of a checkpoint.

    Raises:
        CorruptCheckpointError: It is damaged, or not a manifest.
        FormatVersionError: A newer version of the format wrote it, or it uses a feature that this one lacks.
    """
    return _parse(_manifest, data, "manifest.json")


def parse_earlier_objects(data: bytes) -> EarlierObjects:
    """Parse the tensor records in a manifest of version 1 or 2; raises as `parse_manifest`."""
    return _parse(earlier_objects, data, "manifest.json")


def parse_run_file(data: bytes) -> RunFile:
    """Parse `run.json`; raises as `parse_manifest`."""
    return _parse(lambda document: RunFile.model_validate(_renumbered(document)), data, "run.json")


def parse_attempt_file(data: bytes) -> AttemptFile:
    """Parse the file of an attempt; raises as `parse_manifest`."""
    return _parse(lambda document: AttemptFile.model_validate(_renumbered(document)), data, "attempt file")


def _parse(validated: Callable[[dict[str, Any]], R], data: bytes, what: str) -> R:
    try:
        document = strict_json.loads(unsealed(data))
    except ValueError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(error)}") from error
    _refuse_newer(document, what)
    try:
        refuse_too_many_parts(document)
        return validated(document)
    except ValidationError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(first_fault(error))}") from error
    except ValueError as error:
        raise CorruptCheckpointError(f"{what}: {quoted(error)}") from error


def _manifest(document: dict[str, Any]) -> Manifest:
    is_older = is_earlier(document.get("format_version"))
    return Manifest.model_validate(upgraded(document) if is_older else document)


def _renumbered(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document that is the same in all versions, with the number of this one."""
    return document | {"format_version": FORMAT_VERSION} if is_earlier(document.get("format_version")) else document


def _refuse_newer(document: object, what: str) -> None:
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{what}: format version {version}, expected at most {FORMAT_VERSION}",
            "it was written by a newer resumable: upgrade this one",
        )
    features = document.get("features") if isinstance(document, dict) else None
    unknown = [each for each in features if isinstance(each, str)] if isinstance(features, list) else []
    if missing := sorted(set(unknown) - KNOWN_FEATURES):
        raise FormatVersionError(
            f"{what}: uses the feature {quoted(missing[0])} of the format, which this version lacks",
            "it was written by a newer resumable: upgrade this one",
        )
