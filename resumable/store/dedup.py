"""Guess which blobs of a save are the same as at the previous save. Imports no torch and touches no file.

Only digests show that a blob did not change; this shows where computing one first is worth it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resumable.store.manifest import BlobRecord

# One rotten file takes at most as many checkpoints with it.
MAX_CHECKPOINTS = 10


@dataclass(frozen=True)
class _PublishedBlob:
    record: BlobRecord
    checkpoints: int  # that name this file
    changed: bool | None  # since the previous save; None after the first


class Sharing:
    """The blobs of the newest checkpoint that one attempt published."""

    def __init__(self) -> None:
        self._published: dict[str, _PublishedBlob] = {}

    def before(self, file_name: str, *, frozen: bool) -> BlobRecord | None:
        """Return the record of a blob at the previous save if it is probably unchanged, else None.

        It is if it was unchanged at that save, or `frozen`. None also if the most checkpoints allowed share the file:
        then it is written again.
        """
        blob = self._published.get(file_name)
        if blob is None or blob.checkpoints >= MAX_CHECKPOINTS:
            return None
        likely = frozen if blob.changed is None else not blob.changed
        return blob.record if likely else None

    def published(self, blobs: Mapping[str, BlobRecord], *, candidates: Mapping[str, BlobRecord | None]) -> None:
        """Record the blobs of a save; `candidates` is what `before` returned for each of them."""
        self._published = {name: self._next(name, record, candidates.get(name)) for name, record in blobs.items()}

    def _next(self, name: str, record: BlobRecord, candidate: BlobRecord | None) -> _PublishedBlob:
        last = self._published.get(name)
        if last is None:
            return _PublishedBlob(record, 1, None)
        changed = record.digest != last.record.digest
        shared = candidate is not None and not changed
        return _PublishedBlob(record, last.checkpoints + 1 if shared else 1, changed)
