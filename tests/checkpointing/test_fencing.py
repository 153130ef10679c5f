"""Storages without locks: how exclusive create is settled at the start, and who is told to be displaced."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

import resumable.checkpointing.checkpointer
from resumable import FencedError, StorageError
from resumable.store.attempts import AttemptFile
from resumable.store.layout import attempt_path
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.retry import PatientStorage
from tests.store.flat import CarelessStore, FlatStore
from tests.tiny import Tiny, crashed

pytestmark = pytest.mark.usefixtures("_every_line")


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket"
    folder.mkdir()
    return folder


def stored(monkeypatch: pytest.MonkeyPatch, bucket: Path, kind: type[FlatStore] = FlatStore) -> FlatStore:
    """Runs lie in an object store from here on."""
    store = kind(folder=str(bucket), skip_instance_cache=True)

    def opened(url: str, options: object, *, probe: bool) -> PatientStorage:
        return PatientStorage(FsspecStorage(store, "bucket/run", "flat://bucket/run", probe=probe))

    monkeypatch.setattr(resumable.checkpointing.checkpointer, "open_storage", opened)
    return store


def opened(**config: Any) -> None:
    with Tiny("flat://bucket/run", **config).trainer() as trainer:
        trainer.restore()


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(event)]


@pytest.mark.parametrize("fencing", ["auto", "require"])
def test_a_storage_that_creates_exclusively_is_taken_without_a_word(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fencing: str
) -> None:
    stored(monkeypatch, bucket)
    opened(fencing=fencing)
    assert lines(caplog, "WARN") == []


def test_one_that_ignores_the_condition_is_told_once(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored(monkeypatch, bucket, CarelessStore)
    opened(fencing="auto")
    [warning] = lines(caplog, "WARN")
    assert "does not create files exclusively: do not launch this run twice at the same instant" in warning


def test_one_that_ignores_the_condition_is_refused_where_it_is_required_and_no_run_is_begun(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(monkeypatch, bucket, CarelessStore)
    with pytest.raises(StorageError, match="the config sets fencing: require"):
        opened(fencing="require")
    assert list(bucket.iterdir()) == []


def test_switched_off_nothing_is_tried_or_told(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = stored(monkeypatch, bucket, CarelessStore)
    opened(fencing="off")
    assert lines(caplog, "WARN") == []
    assert not any(".probe-" in request for request in store.requests)


def test_the_newer_attempt_names_the_older_which_stops_at_its_next_save(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored(monkeypatch, bucket)
    older = Tiny("flat://bucket/run")
    with pytest.raises(FencedError, match=rf"attempt 2 \(host {socket.gethostname()}, pid {os.getpid()}, started"):
        older.turn(4, lambda trainer: opened() if trainer.step == 2 else None)
    [displaced] = lines(caplog, "DISPLACE")
    assert f"attempt=1 host={socket.gethostname()} pid={os.getpid()} by=2" in displaced


def test_in_a_folder_one_of_this_machine_is_known_to_be_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crashed(tmp_path / "run", step=3)
    with Tiny(tmp_path / "run").trainer() as trainer:
        trainer.restore()
    assert lines(caplog, "RESUME")
    assert lines(caplog, "DISPLACE") == []


def test_in_a_folder_one_of_another_machine_may_still_live(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crashed(tmp_path / "run", step=3)
    record = AttemptFile(attempt=2, token="t" * 32, host="elsewhere", pid=7, started=1.0)
    (tmp_path / "run" / attempt_path(2)).write_bytes(record.dump())
    with Tiny(tmp_path / "run").trainer() as trainer:
        trainer.restore()
    [displaced] = lines(caplog, "DISPLACE")
    assert "attempt=2 host=elsewhere pid=7 by=3" in displaced


def test_a_finished_run_displaces_nobody(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored(monkeypatch, bucket)
    for _ in range(2):
        Tiny("flat://bucket/run").train()
    assert lines(caplog, "DISPLACE") == []
