"""SFTP by a real OpenSSH server: files appear whole or not at all, and a lost connection is one failed call.

The server's folder is one of this machine, so what is there is looked at past everything that is under test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resumable.errors import StorageError
from resumable.store.storage import fsspec_storage, sftp
from resumable.store.storage.open import open_storage
from resumable.store.storage.own_files import is_temporary
from resumable.store.storage.retry import PatientStorage
from tests.faults.servers import SftpServer, shared_sftp

DATA = os.urandom(200_000)

# A program that creates run.json and dies in the middle of `call`, as a SIGKILL from outside would have it.
DYING = """
import json, os, signal, sys
import paramiko
from resumable.store.storage.open import open_storage

url, options, owner, call, size = json.loads(sys.argv[1])
kind = getattr(paramiko, owner)
whole = getattr(kind, call)

def dying(self, *arguments):
    if call == "write":
        whole(self, arguments[0][: len(arguments[0]) // 2])
        self.flush()
    os.kill(os.getpid(), signal.SIGKILL)

storage = open_storage(url, options)
assert storage.exclusive
setattr(kind, call, dying)
storage.create("run.json", bytes(size))
"""


@pytest.fixture
def server() -> SftpServer:
    return shared_sftp()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "new" / "run"


@pytest.fixture
def storage(server: SftpServer, run: Path) -> PatientStorage:
    return open_storage(server.url(run), server.options)


def names(folder: Path) -> list[str]:
    """The files that are there."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(("owner", "call"), [("SFTPFile", "write"), ("SFTPClient", "rename")])
def test_a_kill_while_a_file_is_created_leaves_no_torn_file(
    server: SftpServer, storage: PatientStorage, run: Path, owner: str, call: str
) -> None:
    arguments = json.dumps([server.url(run), server.options, owner, call, len(DATA)])
    done = subprocess.run([sys.executable, "-c", DYING, arguments], timeout=60, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [left] = names(run)
    assert is_temporary(left)
    assert (run / left).stat().st_size == (len(DATA) // 2 if call == "write" else len(DATA))
    with pytest.raises(FileNotFoundError):
        storage.read("run.json", max_bytes=10**6)
    storage.create("run.json", DATA)
    assert (run / "run.json").read_bytes() == DATA


def test_create_is_exclusive_also_against_who_does_not_look(storage: PatientStorage, run: Path) -> None:
    assert storage.exclusive
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        storage.create("run.json", b"mine")
    assert (run / "run.json").read_bytes() == b"another's"
    assert names(run) == ["run.json"]


def test_a_connection_that_was_lost_between_two_calls_is_made_anew(
    server: SftpServer, storage: PatientStorage, run: Path
) -> None:
    storage.write("a/f", [DATA])
    for call in (
        lambda: storage.read("a/f", max_bytes=10**6),
        lambda: storage.list("a"),
        lambda: storage.size("a/f"),
        lambda: storage.write("a/f", [DATA]),
        lambda: storage.create("a/new", DATA),
        lambda: storage.remove("a/new"),
    ):
        server.drop_connections()
        call()
    assert names(run) == ["a/f"]
    assert (run / "a/f").read_bytes() == DATA


class Interrupted:
    """Chunks of a file; something happens in the midst of them, the first time."""

    def __init__(self, happens: list[object]) -> None:
        self._happens = happens

    def __iter__(self) -> Iterator[bytes]:
        yield DATA
        while self._happens:
            self._happens.pop()()  # type: ignore[operator]
        yield DATA


@pytest.mark.parametrize("how", ["dropped", "frozen"])
def test_a_connection_that_is_lost_within_a_large_file_costs_one_more_try(
    server: SftpServer, storage: PatientStorage, run: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", len(DATA) // 2)
    monkeypatch.setattr(sftp, "SILENCE_SECONDS", 1)
    server.drop_connections()  # the next one has the shorter patience
    happens = [server.drop_connections if how == "dropped" else server.freeze_connections]
    storage.write("a/f", Interrupted(list(happens)))
    assert (run / "a/f").read_bytes() == DATA * 2
    assert names(run) == ["a/f"]
    server.drop_connections()


def test_a_source_that_fails_midway_leaves_nothing(
    storage: PatientStorage, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", len(DATA) // 2)

    def refuse() -> None:
        assert [is_temporary(name) for name in os.listdir(run / "a")] == [True]
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device"):
        storage.write("a/f", Interrupted([refuse]))
    assert names(run) == []


def test_a_server_without_the_renaming_extension_is_served_too(
    storage: PatientStorage, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paramiko = pytest.importorskip("paramiko")

    def unsupported(self: object, old: str, new: str) -> None:
        raise OSError("Operation unsupported")  # paramiko's words for the protocol's status 8

    monkeypatch.setattr(paramiko.SFTPClient, "posix_rename", unsupported)
    storage.write("a/f", [b"first"])
    storage.write("a/f", [b"second"])
    assert (run / "a/f").read_bytes() == b"second"
    assert names(run) == ["a/f"]


def test_a_place_where_nothing_can_be_made_is_told_at_once(server: SftpServer) -> None:
    with pytest.raises(StorageError, match=r"cannot write sftp://.*/proc/run/f: ") as caught:
        open_storage(server.url(Path("/proc/run")), server.options).write("f", [b"x"])
    assert caught.value.hint
