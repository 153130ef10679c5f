"""The journal that one attempt writes: in a folder, on an object store, and where nothing can be written."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

from resumable.store.journal.read_journal import list_parts, read_parts
from resumable.store.journal.records import MetricsRecord, OpenRecord, metrics_line
from resumable.store.journal.writer import JournalWriter
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import AppendedFile, Storage
from tests.tiny import warnings_of


def line(step: int) -> bytes:
    return metrics_line("step", (step, 0), 0.0, {"loss": 1.0 / step})[0]


def writer(storage: Storage, *, attempt: int = 1, seconds: float = 3600.0, most: int = 2**20) -> JournalWriter:
    return JournalWriter(storage, attempt=attempt, resumed_from=None, flush_seconds=seconds, max_bytes=most)


def steps(storage: Storage) -> list[int]:
    return [each.step for each in read_parts(storage, list_parts(storage)) if isinstance(each, MetricsRecord)]


@pytest.fixture
def bucket() -> Storage:
    return open_storage(f"memory://{uuid.uuid4().hex}", {}).impatient


def test_in_a_folder_every_record_is_there_at_once(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    journal = writer(storage)
    assert not (tmp_path / "journal").exists()  # before the first record
    for step in range(1, 4):
        journal.write(line(step))
        assert steps(storage) == list(range(1, step + 1))
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["000001.jsonl"]
    assert read_parts(storage, list_parts(storage))[0] == OpenRecord(1, None)
    journal.put()
    journal.close()
    journal.close()
    journal.write(line(4))
    assert steps(storage) == [1, 2, 3]


def test_a_file_is_never_written_into_by_another_attempt_of_its_number(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/000001.jsonl").write_bytes(b"of a copy")
    journal = writer(storage)
    journal.write(line(1))
    assert (tmp_path / "journal/000001.jsonl").read_bytes() == b"of a copy"
    assert steps(storage) == [1]


def test_no_link_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/journal").symlink_to(tmp_path / "outside")
    writer(LocalStorage(tmp_path / "run")).write(line(1))
    assert not list((tmp_path / "outside").iterdir())
    assert len(warnings_of(caplog)) == 1


def test_on_an_object_store_records_become_parts_that_nothing_rewrites(bucket: Storage) -> None:
    journal = writer(bucket)
    journal.write(line(1))
    assert list_parts(bucket) == []
    journal.put()
    journal.put()
    journal.write(line(2))
    journal.write(line(3))
    journal.put()
    journal.write(line(4))
    journal.close()
    assert [part.path for part in list_parts(bucket)] == [
        "journal/000001.jsonl",
        "journal/000001.0001.jsonl",
        "journal/000001.0002.jsonl",
    ]
    assert steps(bucket) == [1, 2, 3, 4]


def test_records_wait_for_flush_seconds_at_most(bucket: Storage) -> None:
    journal = writer(bucket, seconds=0.01)
    journal.write(line(1))
    while not steps(bucket):
        pass
    journal.write(line(2))
    while len(steps(bucket)) < 2:
        pass
    journal.close()


class Broken(LocalStorage):
    """A folder on which nothing grows, and whose writes fail while `failing`."""

    failing = True

    def append(self, path: str) -> AppendedFile | None:  # type: ignore[override]
        return None

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().write(path, chunks)

    def create(self, path: str, data: bytes) -> None:
        self.write(path, [data])


def test_what_cannot_be_put_is_put_with_the_next_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Broken(tmp_path)
    journal = writer(storage)
    for step in range(1, 4):
        journal.write(line(step))
        journal.put()
    storage.failing = False
    journal.write(line(4))
    journal.close()
    assert steps(storage) == [1, 2, 3, 4]
    assert warnings_of(caplog) == []


def test_what_is_lost_at_the_end_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = writer(Broken(tmp_path))
    journal.write(line(1))
    journal.close()
    journal.close()
    assert warnings_of(caplog) == ["WARN    the journal lacks what was logged last: it could not be written"]


def test_a_full_journal_and_a_full_disk_are_one_warning_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = writer(LocalStorage(tmp_path), most=400)
    for step in range(1, 100):
        journal.write(line(step))
    assert steps(LocalStorage(tmp_path)) == list(range(1, 1 + len(steps(LocalStorage(tmp_path)))))
    assert not journal.active
    assert len(warnings_of(caplog)) == 1
    assert "journal.max_bytes" in warnings_of(caplog)[0]


def test_a_folder_that_may_not_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "journal").write_bytes(b"a file in the place of the folder")
    journal = writer(LocalStorage(tmp_path))
    journal.write(line(1))
    journal.write(line(2))
    journal.put()
    journal.close()
    assert len(warnings_of(caplog)) == 1
    assert "the journal ends here, and training goes on without it" in warnings_of(caplog)[0]
