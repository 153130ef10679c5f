"""Read the journal of a run. Bounded in time and memory, whatever the files hold. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resumable.store.journal.line import MAX_ROWS, Stretches, on_line, stretches, thinned
from resumable.store.journal.records import MAX_LINES, MetricsRecord, Record, decode_all
from resumable.store.layout import JOURNAL, journal_path, parse_journal
from resumable.store.storage.protocol import Storage
from resumable.utils.threads import in_lanes

MAX_FILES = 10_000
MAX_FILE_BYTES = 64 * 2**20
MAX_READ_BYTES = 256 * 2**20


@dataclass(frozen=True, order=True)
class Part:
    """One file of a journal: the attempt that wrote it, its number within the attempt, and its size in bytes."""

    attempt: int
    number: int
    size: int

    @property
    def path(self) -> str:
        """Return its path within the run."""
        return journal_path(self.attempt, self.number)


def list_parts(storage: Storage) -> list[Part]:
    """List the files of the journal, oldest first, by one request; of very many, the newest."""
    names = ((entry, parse_journal(entry.name)) for entry in storage.list(JOURNAL) if not entry.is_dir)
    parts = sorted(Part(*name, entry.size or 0) for entry, name in names if name)
    return parts[-MAX_FILES:]


def read_parts(storage: Storage, parts: Sequence[Part]) -> list[Record]:
    """Return the records in these files, oldest first. Files beyond the bounds are left out, the oldest first."""
    chosen: list[Part] = []
    left = MAX_READ_BYTES
    for part in reversed(parts):
        left -= part.size
        if part.size <= MAX_FILE_BYTES and left >= 0:
            chosen.append(part)
    records: list[Record] = []
    lines = MAX_LINES
    width = max(1, min(storage.parallel, 8))
    for start in range(0, len(chosen), width):
        group = chosen[start : start + width]
        for part, data in zip(group, in_lanes(lambda part: _read(storage, part), group, width), strict=True):
            found = list(decode_all(data, part.attempt, most=lines))
            lines -= len(found)
            records += [record for record in reversed(found) if record is not None]
    return records[::-1]


def read_metrics(
    storage: Storage, lineage: Sequence[tuple[int, str | None]], *, most: int = MAX_ROWS
) -> list[MetricsRecord]:
    """Return what was logged on the line of a run, oldest first, at most `most` rows; `lineage` is of its head."""
    records = read_parts(storage, list_parts(storage))
    line: Stretches = stretches(lineage, records)
    return thinned(on_line(records, line), most=most)


def _read(storage: Storage, part: Part) -> bytes:
    """Return the bytes of a file; none where it is gone, or cannot be read."""
    try:
        return storage.read(part.path, max_bytes=MAX_FILE_BYTES)
    except (FileNotFoundError, ValueError):
        return b""
