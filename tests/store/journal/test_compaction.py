"""A journal beyond its bounds is rewritten: few files, few rows, nothing of what is off the line; and at any crash."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from resumable.errors import FencedError, StorageError
from resumable.store.attempts import Attempt, begin
from resumable.store.journal import compaction
from resumable.store.journal.compaction import MAX_PARTS, compact
from resumable.store.journal.line import MAX_ROWS
from resumable.store.journal.read_journal import list_parts, read_metrics
from resumable.store.journal.records import MetricsRecord, Place, metrics_line
from resumable.store.journal.writer import JournalWriter
from resumable.store.layout import CheckpointName
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import Storage

MAX_BYTES = 64 * 2**20


def launched(
    storage: Storage, resumed_from: CheckpointName | None, lineage: Sequence[tuple[int, str | None]]
) -> Attempt:
    return begin(storage, resumed_from=resumed_from, lineage_before=lineage)


def writer(storage: Storage, attempt: Attempt, resumed_from: CheckpointName | None = None) -> JournalWriter:
    name = str(resumed_from) if resumed_from else None
    return JournalWriter(storage, attempt=attempt.number, resumed_from=name, flush_seconds=3600, max_bytes=MAX_BYTES)


def log(journal: JournalWriter, steps: range) -> None:
    for step in steps:
        journal.write(metrics_line("step", (step, 0), 0.0, {"loss": 1 / step})[0])


def crash_loop(storage: Storage, launches: int) -> tuple[Attempt, JournalWriter]:
    """Each launch logs ten steps behind step 10, all from the same checkpoint; the last one goes on to step 30."""
    first = launched(storage, None, [])
    log(writer(storage, first), range(1, 16))
    name = CheckpointName(10, 0, first.number)
    for _ in range(launches):
        attempt = launched(storage, name, first.lineage)
        journal = writer(storage, attempt, name)
        log(journal, range(11, 21))
        journal.put()
    log(journal, range(21, 31))
    return attempt, journal


def rows(storage: Storage, attempt: Attempt) -> list[MetricsRecord]:
    return read_metrics(storage, attempt.lineage)


def kept(storage: Storage, attempt: Attempt, journal: JournalWriter | None, place: Place = (10, 0)) -> list[str]:
    gone = compact(storage, attempt, attempt.lineage, exact_after=place, max_bytes=MAX_BYTES, writer=journal)
    return [part.path for part in gone]


def test_a_small_journal_is_left_alone(tmp_path: Path) -> None:
    attempt, journal = crash_loop(LocalStorage(tmp_path), MAX_PARTS // 2)
    parts = list_parts(LocalStorage(tmp_path))
    assert kept(LocalStorage(tmp_path), attempt, journal) == []
    assert list_parts(LocalStorage(tmp_path)) == parts


def test_the_files_of_a_crash_loop_become_one(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    attempt, journal = crash_loop(storage, MAX_PARTS + 5)
    before = rows(storage, attempt)
    assert [row.step for row in before] == list(range(1, 31))
    assert len(kept(storage, attempt, journal)) == MAX_PARTS + 6
    assert [part.path for part in list_parts(storage)] == [  # the one that grows on, and the rewritten one
        f"journal/{attempt.number:06d}.0001.jsonl",
        f"journal/{attempt.number:06d}.0002.jsonl",
    ]
    assert rows(storage, attempt) == before
    log(journal, range(31, 33))
    assert [row.step for row in rows(storage, attempt)] == list(range(1, 33))
    later = launched(storage, CheckpointName(25, 0, attempt.number), attempt.lineage)
    log(writer(storage, later, CheckpointName(25, 0, attempt.number)), range(26, 28))
    assert [row.step for row in rows(storage, later)] == list(range(1, 28))


def test_an_object_store_holds_few_parts_of_a_long_attempt() -> None:
    storage = open_storage(f"memory://{uuid.uuid4().hex}", {}).impatient
    attempt = launched(storage, None, [])
    journal = writer(storage, attempt)
    for step in range(1, MAX_PARTS + 3):
        log(journal, range(step, step + 1))
        journal.put()
    assert journal.has_grown(most_bytes=2**20, most_parts=MAX_PARTS)
    before = rows(storage, attempt)
    assert len(kept(storage, attempt, journal)) == MAX_PARTS + 2
    assert len(list_parts(storage)) == 1
    assert rows(storage, attempt) == before
    log(journal, range(100, 101))
    journal.close()
    assert rows(storage, attempt)[-1].step == 100


def test_a_long_run_has_few_rows_and_the_newest_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "CHECKED_BYTES", 0)
    monkeypatch.setattr(compaction, "MAX_ROWS", 2_000)
    storage = LocalStorage(tmp_path)
    attempt = launched(storage, None, [])
    journal = writer(storage, attempt)
    log(journal, range(1, 5001))
    assert len(kept(storage, attempt, journal, (4500, 0))) == 1
    found = rows(storage, attempt)
    assert 1_000 < len(found) <= 1_500
    assert [row.step for row in found[-500:]] == list(range(4501, 5001))
    assert sum(row.count for row in found) == 5000
    assert MAX_ROWS == 50_000


def test_a_crash_between_the_new_file_and_the_removal_of_the_old_ones_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "CHECKED_BYTES", 0)
    monkeypatch.setattr(compaction, "MAX_ROWS", 200)

    class Interrupted(LocalStorage):
        def remove_all(self, paths: Sequence[str]) -> None:
            super().remove_all(paths[: len(paths) // 2])
            raise StorageError("the power went")

    attempt, journal = crash_loop(LocalStorage(tmp_path), MAX_PARTS + 5)
    log(journal, range(31, 400))
    with pytest.raises(StorageError, match="the power went"):
        kept(Interrupted(tmp_path), attempt, journal, (300, 0))
    found = rows(LocalStorage(tmp_path), attempt)
    assert sum(row.count for row in found) == 399
    assert [row.first[0] for row in found] == [1, *(row.step + 1 for row in found[:-1])]


def test_a_pruning_by_hand_leaves_the_files_of_the_newest_attempt(tmp_path: Path) -> None:
    """Its program may still run, on another machine."""
    storage = LocalStorage(tmp_path)
    attempt, journal = crash_loop(storage, MAX_PARTS + 5)
    before = rows(storage, attempt)
    gone = kept(storage, attempt, None)
    assert len(gone) == MAX_PARTS + 5
    assert not [path for path in gone if path.startswith(f"journal/{attempt.number:06d}")]
    log(journal, range(31, 41))
    assert rows(storage, attempt)[:30] == before
    assert [row.step for row in rows(storage, attempt)] == list(range(1, 41))


def test_a_displaced_attempt_removes_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    attempt, journal = crash_loop(storage, MAX_PARTS + 5)
    launched(storage, None, [])
    parts = len(list_parts(storage))
    with pytest.raises(FencedError):
        kept(storage, attempt, journal)
    assert len(list_parts(storage)) >= parts
