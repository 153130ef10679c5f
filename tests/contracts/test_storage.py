"""What every storage promises, whatever is behind it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from resumable.errors import StorageError
from resumable.store.storage import fsspec_storage
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.open import open_storage
from resumable.store.storage.protocol import Entry, Storage
from resumable.utils.threads import in_lanes
from tests.faults.servers import S3Server, botocore_session, shared_moto, shared_rclone, shared_sftp
from tests.store.flat import CarelessStore, FlatStore

Opened = Callable[[], Storage]


@pytest.fixture(params=["local", "memory", "flat", "careless", "folders", "s3", "s3-careless", "sftp"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens one and the same empty place anew at each call."""
    if request.param == "s3":
        return bucket_of(shared_moto())
    if request.param == "s3-careless":
        return bucket_of(shared_rclone())
    if request.param == "sftp":
        server = shared_sftp()
        return lambda: raw(server.url(tmp_path / "new" / "run"), server.options)
    unique = secrets.token_hex(4)
    flat = {"skip_instance_cache": True, "folder": str(tmp_path)}
    openers: dict[str, Opened] = {
        "local": lambda: LocalStorage(tmp_path / "new" / "run"),
        "memory": lambda: open_storage(f"memory://{unique}/run"),
        "flat": lambda: FsspecStorage(FlatStore(**flat), "bucket/run", "flat://bucket/run"),
        "careless": lambda: FsspecStorage(CarelessStore(**flat), "bucket/run", "careless://bucket/run"),
        # A backend with folders that must be made, and without an exclusive create.
        "folders": lambda: FsspecStorage(LocalFileSystem(), str(tmp_path / "new" / "run"), "folders://run"),
    }
    return openers[str(request.param)]


def bucket_of(server: S3Server) -> Opened:
    """Opens a run in a new bucket of a real server."""
    url = f"s3://{server.new_bucket()}/run"
    return lambda: raw(url, {**server.options(), "session": botocore_session()})


def raw(url: str, options: dict[str, Any]) -> Storage:
    """The storage itself, without the patience around it."""
    file_system, root = url_to_fs(url, **options, skip_instance_cache=True)
    return FsspecStorage(file_system, root, url)


@pytest.fixture
def place(opened: Opened) -> Storage:
    return opened()


def test_what_is_written_is_read_back(place: Storage) -> None:
    place.write("a/b/c.json", [b"one ", memoryview(b"two"), b"", bytes(3)])
    assert place.read("a/b/c.json") == b"one two\0\0\0"
    assert place.size("a/b/c.json") == 10


def test_an_empty_file_is_a_file(place: Storage) -> None:
    place.write("a/empty", [])
    assert place.read("a/empty", max_bytes=0) == b""
    assert place.size("a/empty") == 0
    assert place.read_into("a/empty", memoryview(bytearray(4))) == 0


def test_writing_again_replaces(place: Storage) -> None:
    place.write("a/f", [b"a longer first text"])
    place.write("a/f", [b"second"])
    assert place.read("a/f") == b"second"


def test_a_file_of_several_requests_is_whole(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", 1000)
    monkeypatch.setattr(fsspec_storage, "REQUEST_BYTES", 300)
    data = bytes(range(256)) * 20
    place.write("a/big", [memoryview(data)[:1234], data[1234:]])
    buffer = bytearray(len(data))
    assert place.read_into("a/big", memoryview(buffer)) == len(data)
    assert buffer == data


def test_memory_of_any_item_size_is_written_as_bytes(place: Storage) -> None:
    place.write("a/words", [memoryview(bytes(16)).cast("Q")])
    assert place.read("a/words") == bytes(16)


@pytest.mark.parametrize("call", ["read", "size"])
def test_what_is_not_there_is_not_found(place: Storage, call: str) -> None:
    place.write("a/there", [b"x"])
    for path in ("a/missing", "missing/folder/file", "a", "a/there/below"):
        with pytest.raises(FileNotFoundError):
            getattr(place, call)(path)
    with pytest.raises(FileNotFoundError):
        place.read_into("a/missing", memoryview(bytearray(1)))


def test_a_file_over_the_bound_is_not_read(place: Storage) -> None:
    place.write("f", [bytes(11)])
    assert len(place.read("f", max_bytes=11)) == 11
    with pytest.raises(ValueError, match="11 bytes, more than the 10 allowed"):
        place.read("f", max_bytes=10)


def test_reading_into_memory_stops_at_the_end_of_the_file_and_of_the_memory(place: Storage) -> None:
    place.write("f", [b"0123456789"])
    buffer = bytearray(4)
    assert place.read_into("f", memoryview(buffer), offset=3) == 4
    assert buffer == b"3456"
    assert place.read_into("f", memoryview(buffer), offset=8) == 2
    assert buffer == b"8956"
    assert place.read_into("f", memoryview(buffer), offset=10) == 0
    assert place.read_into("f", memoryview(buffer), offset=99) == 0


def test_a_list_holds_the_direct_children(place: Storage) -> None:
    place.write("a/file", [b"x"])
    place.write("a/b/deep", [b"x"])
    place.write("ab/other", [b"x"])
    assert place.list("a") == [Entry("b", True), Entry("file", False)]
    assert place.list("a/file") == []
    assert place.list("nothing") == []


def test_a_list_is_never_stale(opened: Opened) -> None:
    reader, writer = opened(), opened()
    assert reader.list("a") == []
    writer.write("a/1", [b"x"])
    assert reader.list("a") == [Entry("1", False)]
    writer.write("a/2", [b"xyz"])
    assert reader.size("a/2") == 3
    writer.remove("a/1")
    assert reader.list("a") == [Entry("2", False)]
    with pytest.raises(FileNotFoundError):
        reader.size("a/1")


def test_a_link_has_the_same_bytes_or_there_are_none(opened: Opened) -> None:
    opened().write("a/f", [b"some ", b"bytes"])
    opened().write("b/left", [b"by a save that failed"])
    for target in ("b/new/g", "b/left"):
        if opened().link("a/f", target):
            assert opened().read(target) == b"some bytes"
            opened().link("a/f", target)  # once more: an answer may be lost
            assert opened().read(target) == b"some bytes"
    opened().remove("b/left")
    opened().remove("b/new/g")
    assert opened().read("a/f") == b"some bytes"


def test_the_other_name_stays_when_one_is_removed(opened: Opened) -> None:
    opened().write("a/f", [b"some bytes"])
    if opened().link("a/f", "b/g"):
        opened().remove("a/f")
        assert opened().read("b/g") == b"some bytes"


def test_files_are_written_at_once_as_many_as_it_wants(place: Storage) -> None:
    assert 1 <= place.parallel <= 64
    contents = {f"a/{number}/f": bytes([number]) * 1000 * number for number in range(12)}
    in_lanes(lambda path: place.write(path, [contents[path]]), list(contents), place.parallel)
    for path, data in contents.items():
        assert place.read(path) == data


def test_the_memory_of_a_chunk_may_be_used_again_when_the_next_one_is_asked_for(
    place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", 4000)
    memory = bytearray(1000)

    class Reused:
        def __iter__(self) -> Iterator[memoryview]:
            for number in range(9):
                memory[:] = bytes([number]) * 1000
                yield memoryview(memory)
                memory[:] = b"z" * 1000

    place.write("a/f", Reused())
    assert place.read("a/f") == b"".join(bytes([number]) * 1000 for number in range(9))


def test_create_refuses_what_is_there(opened: Opened) -> None:
    opened().create("a/000001.json", b"token one")
    with pytest.raises(FileExistsError):
        opened().create("a/000001.json", b"token two")
    assert opened().read("a/000001.json") == b"token one"
    assert opened().list("a") == [Entry("000001.json", False)]


def test_of_many_creators_one_wins(opened: Opened) -> None:
    winners: list[int] = []
    together = threading.Barrier(8)

    def create(number: int) -> None:
        place = opened()
        together.wait()
        try:
            place.create("attempts/000001.json", b"token %d" % number)
        except FileExistsError:
            return
        winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert opened().read("attempts/000001.json") == b"token %d" % winners[0]


def test_a_failing_source_leaves_nothing_behind(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec_storage, "SINGLE_REQUEST_BYTES", 100)

    class Source:
        def __iter__(self) -> Iterator[bytes]:
            yield bytes(1000)
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device") as caught:
        place.write("a/file", Source())
    assert f"{place.url}/a/file" in str(caught.value)
    assert "keep.last" in str(caught.value.hint)
    assert place.list("a") == []


def test_removing_is_idempotent(place: Storage) -> None:
    place.write("a/f", [b"x"])
    place.remove("a/f")
    place.remove("a/f")
    place.remove("never/was")
    assert place.list("a") == []


def test_only_an_empty_folder_is_removed(place: Storage) -> None:
    place.write("a/b/f", [b"x"])
    place.remove_dir("a/b")
    place.remove_dir("nothing")
    assert place.read("a/b/f") == b"x"
    place.remove("a/b/f")
    place.remove_dir("a/b")
    assert place.list("a") == []
    place.write("a/b/f", [b"again"])
    assert place.read("a/b/f") == b"again"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\\b", "a\nb", "a\0b"])
def test_a_path_out_of_the_root_is_refused(place: Storage, path: str) -> None:
    for call in (place.read, place.size, place.list, place.remove, place.remove_dir, place.lock):
        with pytest.raises(ValueError, match="is not a path inside a run"):
            call(path)
    with pytest.raises(ValueError, match="is not a path inside a run"):
        place.write(path, [b""])
    with pytest.raises(ValueError, match="is not a path inside a run"):
        place.create(path, b"")
    place.write("there", [b"x"])
    for source, target in (("there", path), (path, "other")):
        with pytest.raises(ValueError, match="is not a path inside a run"):
            place.link(source, target)


def test_a_lock_can_be_taken_again_after_its_release(place: Storage) -> None:
    place.lock("lock")()
    release = place.lock("lock")
    release()
    release()


def test_dropping_a_cache_changes_nothing_and_never_fails(place: Storage) -> None:
    place.write("a/f", [b"content"])
    for path in ("a/f", "a", "a/none", "no/folder"):
        place.drop_cache(path)
    assert place.read("a/f") == b"content"
    assert place.list("a") == [Entry("f", False)]
