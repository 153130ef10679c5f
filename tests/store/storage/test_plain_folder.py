"""Local files where there are no folder descriptors: read like those of `LocalStorage`, and replaced atomically."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resumable.errors import ConfigError, StorageError
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.plain_folder import PlainFolder


@pytest.fixture
def place(tmp_path: Path) -> PlainFolder:
    """A folder with a file, a folder, a link to each, and a pipe."""
    (tmp_path / "place" / "folder").mkdir(parents=True)
    (tmp_path / "place" / "file").write_bytes(b"0123456789")
    (tmp_path / "place" / "link").symlink_to("file")
    (tmp_path / "place" / "away").symlink_to("folder")
    os.mkfifo(tmp_path / "place" / "pipe")
    return PlainFolder(tmp_path / "place")


def answer(call: Callable[[], Any]) -> Any:
    """What a call returns, or the kind of error that it raises."""
    try:
        return call()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(
    "name", ["", "file", "folder", "link", "away", "away/file", "pipe", "file/x", "missing", "../x"]
)
def test_every_read_has_the_answer_of_local_storage(place: PlainFolder, tmp_path: Path, name: str) -> None:
    def answers(storage: PlainFolder | LocalStorage) -> list[Any]:
        calls = [lambda: storage.list(name)]
        if name:
            calls += [lambda: storage.read(name), lambda: storage.size(name)]
            calls += [lambda: storage.read(name, max_bytes=3), lambda: storage.read(name, max_bytes=10)]
        return [answer(call) for call in calls]

    assert answers(place) == answers(LocalStorage(tmp_path / "place"))


def test_a_range_is_read_and_seen_in_order(place: PlainFolder) -> None:
    buffer, seen = bytearray(20), []
    assert (
        place.read_into("file", memoryview(buffer), offset=4, seen=lambda part, at: seen.append((bytes(part), at))) == 6
    )
    assert buffer[:6] == b"456789"
    assert seen == [(b"456789", 4)]


def test_a_file_is_replaced_with_its_permissions_and_folders_are_made(place: PlainFolder, tmp_path: Path) -> None:
    (tmp_path / "place" / "file").chmod(0o604)
    place.write("file", [b"new", memoryview(b"er")])
    place.write("a/b/file", [b"first"])
    assert place.read("file") == b"newer"
    assert (tmp_path / "place" / "file").stat().st_mode & 0o777 == 0o604
    assert place.read("a/b/file") == b"first"


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(
    place: PlainFolder, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    before = place.list("")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, function, fail)
        with pytest.raises(StorageError, match="No space left on device"):
            place.write("file", [b"new"])
    assert place.read("file") == b"0123456789"
    assert place.list("") == before


def test_what_a_run_needs_is_refused(place: PlainFolder) -> None:
    calls = [lambda: place.lock("lock"), lambda: place.create("f", b""), lambda: place.remove("file")]
    for call in [*calls, lambda: place.remove_dir("folder")]:
        with pytest.raises(ConfigError, match="expected a remote storage, found a local folder"):
            call()
    assert place.read("file") == b"0123456789"
