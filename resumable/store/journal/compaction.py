"""Keep the journal of a run within its bounds: one file of the newest attempt takes the place of all earlier ones.

It holds what is on the line of the run, thinned. What attempts off the line logged goes with their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from resumable.store.attempts import Attempt
from resumable.store.journal.line import MAX_ROWS, on_line, stretches, thinned
from resumable.store.journal.read_journal import Part, list_parts, read_parts
from resumable.store.journal.records import MetricsRecord, OpenRecord, Place, Record, lines_of
from resumable.store.journal.writer import JournalWriter
from resumable.store.layout import journal_path
from resumable.store.storage.protocol import Storage

MAX_PARTS = 64
CHECKED_BYTES = 2**20  # a journal that is smaller is not read: it cannot have too many rows
_FEWEST_ROWS = 64


def compact(
    storage: Storage,
    attempt: Attempt,
    lineage: Sequence[tuple[int, str | None]],
    *,
    exact_after: Place,
    max_bytes: int,
    writer: JournalWriter | None = None,
) -> list[Part]:
    """Rewrite the journal if it is beyond its bounds, and return the files that are gone. Blocks.

    Records after the place `exact_after` are not thinned, if they leave room. `lineage` is that of the newest
    checkpoint, and `writer` that of `attempt`, if it is running. A crash leaves the new file beside old ones, which is
    read as the new file alone. Raises `FencedError` if a newer attempt owns the run, and `StorageError`.
    """
    # Without its writer, the files of the newest attempt may still grow, on another machine.
    newest = attempt.number if writer is not None else attempt.number - 1
    parts = [part for part in list_parts(storage) if part.attempt <= newest]
    if len(parts) <= MAX_PARTS and _size(parts) <= CHECKED_BYTES:
        return []
    if writer is not None:
        writer.finish_part()
    records = read_parts(storage, parts)
    rows = on_line(records, stretches(lineage, records))
    if len(parts) <= MAX_PARTS and _size(parts) <= max_bytes // 2 and len(rows) <= MAX_ROWS // 2:
        return []
    number = writer.take_part() if writer is not None else _free_part(storage, attempt.number)
    opened = [record for record in records if isinstance(record, OpenRecord) and record.attempt in dict(lineage)]
    _replace(storage, attempt, parts, number, _bounded(opened, rows, exact_after, max_bytes // 4))
    return parts


def _replace(storage: Storage, attempt: Attempt, parts: Sequence[Part], number: int, data: bytes) -> None:
    attempt.check()
    storage.write(journal_path(attempt.number, number), [data])
    attempt.check()
    storage.remove_all([part.path for part in parts])


def _size(parts: Sequence[Part]) -> int:
    return sum(part.size for part in parts)


def _bounded(opened: Sequence[Record], rows: Sequence[MetricsRecord], exact_after: Place, max_bytes: int) -> bytes:
    """Return the lines of these records, thinned until they are few and small enough."""
    most = MAX_ROWS // 2
    while True:
        thin = thinned(rows, most=most, until=exact_after)
        if len(thin) > 2 * most:
            thin = thinned(rows, most=most)
        data = b"".join(line for record in chain(opened[-MAX_PARTS:], thin) for line in lines_of(record))
        if len(data) <= max_bytes or most <= _FEWEST_ROWS:
            return data
        most //= 2


def _free_part(storage: Storage, attempt: int) -> int:
    return max((part.number + 1 for part in list_parts(storage) if part.attempt == attempt), default=0)
