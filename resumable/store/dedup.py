"""Guess which blobs of a save are the same as at the previous save. Imports no torch and touches no file.

Only digests show that a blob did not change; this shows where computing one first is worth it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resumable.store.digesting import FileDigest
from resumable.store.documents.manifest import MAX_NAMED, BlobRecord


@dataclass(frozen=True)
class PublishedBlob:
    """A file of a published checkpoint, with the digests of its ranges."""

    record: BlobRecord
    digest: FileDigest


@dataclass(frozen=True)
class _LastSave:
    blob: PublishedBlob
    changed: bool | None  # since the save before; None after the first


class Sharing:
    """The blobs of the newest checkpoint of one attempt; at its beginning, of the one that it resumed from.

    Args:
        resumed: The blobs of that checkpoint by file name, whose bytes this program has read and verified.
    """

    def __init__(self, resumed: Mapping[str, PublishedBlob]) -> None:
        self._last = {name: _LastSave(blob, None) for name, blob in resumed.items()}

    def before(self, file_name: str, *, frozen: bool) -> PublishedBlob | None:
        """Return a blob of the previous save if it is probably unchanged, else None.

        It is if it was unchanged at that save, or `frozen`. None also if the most checkpoints allowed share the file:
        then it is written again.
        """
        last = self._last.get(file_name)
        if last is None or last.blob.record.named >= MAX_NAMED:
            return None
        likely = frozen if last.changed is None else not last.changed
        return last.blob if likely else None

    def published(self, blobs: Mapping[str, PublishedBlob]) -> None:
        """Record the blobs of a save."""
        self._last = {name: _LastSave(blob, self._changed(name, blob)) for name, blob in blobs.items()}

    def _changed(self, name: str, blob: PublishedBlob) -> bool | None:
        last = self._last.get(name)
        return None if last is None else blob.record.digest != last.blob.record.digest
