"""Which blobs of a save are likely to be what they were at the save before; knows no tensors and touches no file.

Only digests say that a blob did not change; this says where it is worth asking first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resumable.store.manifest import BlobRecord

# One rotten file takes at most as many checkpoints with it.
MAX_CHECKPOINTS = 10


@dataclass(frozen=True)
class _Known:
    record: BlobRecord
    checkpoints: int  # that name this file
    changed: bool | None  # since the save before; None after the first


class Sharing:
    """Remembers, for one attempt, the blobs of the newest checkpoint that it published."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def before(self, file_name: str, *, frozen: bool) -> BlobRecord | None:
        """What a blob was at the save before, if it is likely to be that still: unchanged then, or said to be `frozen`.

        None also where as many checkpoints share the file as may: then it is written anew.
        """
        known = self._known.get(file_name)
        if known is None or known.checkpoints >= MAX_CHECKPOINTS:
            return None
        likely = frozen if known.changed is None else not known.changed
        return known.record if likely else None

    def published(self, blobs: Mapping[str, BlobRecord], *, offered: Mapping[str, BlobRecord | None]) -> None:
        """Learn what a save wrote; `offered` is what `before` had said for it."""
        self._known = {name: self._learned(name, record, offered.get(name)) for name, record in blobs.items()}

    def _learned(self, name: str, record: BlobRecord, offered: BlobRecord | None) -> _Known:
        last = self._known.get(name)
        if last is None:
            return _Known(record, 1, None)
        changed = record.digest != last.record.digest
        shared = offered is not None and not changed
        return _Known(record, last.checkpoints + 1 if shared else 1, changed)
