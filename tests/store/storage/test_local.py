"""What is particular to storage in a folder of this machine: durability, locks, and files that are no files."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resumable.errors import StorageError
from resumable.store.storage.local import LocalStorage
from tests.store.tracing import Trace


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "runs" / "run")


def test_nothing_is_made_before_the_first_write(place: LocalStorage, tmp_path: Path) -> None:
    assert place.list("checkpoints") == []
    place.remove("a/b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "create"])
def test_a_file_and_every_folder_above_it_is_durable_when_the_call_returns(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    trace = Trace(monkeypatch)
    getattr(place, call)("a/b/f", [b"data"] if call == "write" else b"data")
    assert trace.volatile() == []
    assert {str(path.relative_to(tmp_path)) for path in trace.named} >= {"runs", "runs/run/a", "runs/run/a/b/f"}


def test_a_folder_that_a_killed_launch_made_is_made_durable_too(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "run" / "a").mkdir(parents=True)
    trace = Trace(monkeypatch)
    place.write("a/f", [b"data"])
    runs = tmp_path / "runs"
    synced = [path for path in trace.synced_folders if path.is_relative_to(tmp_path)]
    assert synced == [runs, tmp_path, runs / "run", runs / "run" / "a"]
    trace.synced_folders.clear()
    place.write("a/g", [b"data"])
    assert trace.synced_folders == [tmp_path / "runs" / "run" / "a"]


def test_a_removal_is_durable_when_the_call_returns(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.write("a/f", [b"data"])
    trace = Trace(monkeypatch)
    place.remove("a/f")
    assert trace.synced_folders == [tmp_path / "runs" / "run" / "a"]


def test_short_writes_are_continued(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:3])))
    place.write("f", [b"0123456789"])
    assert place.read("f") == b"0123456789"


@pytest.mark.parametrize("function", ["open", "write", "fsync", "replace"])
def test_a_write_that_fails_anywhere_keeps_the_old_file_and_leaves_no_other(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    place.write("a/f", [b"old"])
    with monkeypatch.context() as patched:
        patched.setattr(os, function, failing(errno.ENOSPC))
        with pytest.raises(StorageError, match="No space left on device") as caught:
            place.write("a/f", [b"new"])
    assert caught.value.errno == errno.ENOSPC
    assert place.read("a/f") == b"old"
    assert [entry.name for entry in place.list("a")] == ["f"]


@pytest.fixture
def umask() -> Iterator[None]:
    """Let new files be readable for the group only, and not for others."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o666, 0o440])
def test_a_file_that_is_replaced_keeps_its_permissions_from_the_first_byte_on(
    place: LocalStorage, tmp_path: Path, before: int
) -> None:
    file = tmp_path / "runs" / "run" / "f"
    place.write("f", [b"old"])
    file.chmod(before)
    seen: list[int] = []

    def chunks() -> Iterator[bytes]:
        for data in (b"ne", b"w"):
            seen.extend(permissions(path) for path in file.parent.iterdir())
            yield data

    place.write("f", chunks())
    assert place.read("f") == b"new"
    assert seen == [before] * 4  # of both files, at both chunks
    assert permissions(file) == before


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("call", ["write", "create"])
def test_a_new_file_has_the_permissions_of_the_umask(place: LocalStorage, tmp_path: Path, call: str) -> None:
    getattr(place, call)("f", [b"data"] if call == "write" else b"data")
    assert permissions(tmp_path / "runs" / "run" / "f") == 0o640


@pytest.mark.usefixtures("umask")
def test_a_link_that_is_replaced_passes_no_permissions_on(place: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").touch(0o777)
    place.write("g", [b""])
    (tmp_path / "runs" / "run" / "f").symlink_to(tmp_path / "outside")
    place.write("f", [b"data"])
    assert permissions(tmp_path / "runs" / "run" / "f") == 0o640


def test_where_permissions_cannot_be_set_the_same_ones_are_not_set(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("f", [b"old"])
    monkeypatch.setattr(os, "fchmod", failing(errno.EPERM))
    place.write("f", [b"new"])
    assert place.read("f") == b"new"


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def test_create_works_where_there_are_no_hard_links(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    place.create("a/f", b"mine")
    with pytest.raises(FileExistsError):
        place.create("a/f", b"of another")
    assert place.read("a/f") == b"mine"
    assert [entry.name for entry in place.list("a")] == ["f"]


def test_create_succeeds_when_the_answer_of_its_link_was_lost(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def repeated(*names: str, **folders: int) -> None:
        link(*names, **folders)
        link(*names, **folders)

    monkeypatch.setattr(os, "link", repeated)
    place.create("a/f", b"mine")
    assert place.read("a/f") == b"mine"


def test_a_folder_removed_under_a_write_is_a_storage_error(place: LocalStorage, tmp_path: Path) -> None:
    def source() -> Any:
        yield b"first"
        for file in (tmp_path / "runs" / "run" / "a").iterdir():
            file.unlink()
        (tmp_path / "runs" / "run" / "a").rmdir()

    with pytest.raises(StorageError, match=r"cannot write .*a/f: No such file") as caught:
        place.write("a/f", source())
    assert "another job" in str(caught.value.hint)


def test_a_change_of_the_working_directory_does_not_move_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = LocalStorage(Path("run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    place.write("f", [b"x"])
    assert (tmp_path / "run" / "f").exists()


def test_a_pipe_or_a_device_is_no_file_and_is_not_waited_for(place: LocalStorage, tmp_path: Path) -> None:
    place.write("a/f", [b"x"])
    os.mkfifo(tmp_path / "runs" / "run" / "a" / "fifo")
    os.mknod(tmp_path / "runs" / "run" / "a" / "socket", stat.S_IFSOCK | 0o600)
    for path in ("a/fifo", "a/socket"):
        for call in (place.read, place.size):
            with pytest.raises((FileNotFoundError, StorageError)):
                call(path)


def test_a_second_name_of_a_file_is_as_durable_as_a_file_that_is_written(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.write("a/f", [b"data"])
    trace = Trace(monkeypatch)
    assert place.link("a/f", "b/c/g")
    assert trace.volatile() == []
    names = {str(path.relative_to(tmp_path / "runs" / "run")) for path in trace.named if path.is_relative_to(tmp_path)}
    assert names == {"b", "b/c", "b/c/g"}
    assert Path(place.url, "b/c/g").samefile(Path(place.url, "a/f"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV])
def test_where_there_are_no_second_names_it_is_said_and_nothing_is_left(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    place.write("a/f", [b"data"])
    place.write("b/g", [b"other"])
    monkeypatch.setattr(os, "link", failing(number))
    assert not place.link("a/f", "b/g")
    assert place.read("b/g") == b"other"
    assert [entry.name for entry in place.list("b")] == ["g"]


@pytest.mark.parametrize("function", ["link", "fsync", "replace"])
def test_a_link_that_fails_anywhere_keeps_the_old_file_and_leaves_no_other(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    place.write("a/f", [b"data"])
    place.write("b/g", [b"old"])
    with monkeypatch.context() as patched:
        patched.setattr(os, function, failing(errno.ENOSPC))
        with pytest.raises(StorageError, match=r"cannot write .*b/g: No space left on device"):
            place.link("a/f", "b/g")
    assert place.read("b/g") == b"old"
    assert [entry.name for entry in place.list("b")] == ["g"]


def test_no_second_name_is_given_to_what_is_no_file(place: LocalStorage, outside: Path) -> None:
    place.write("a/f", [b"x"])
    Path(place.url, "a", "file").symlink_to(outside / "f")
    Path(place.url, "a", "folder").symlink_to(outside)
    os.mkfifo(Path(place.url, "a", "fifo"))
    for source in ("a/file", "a/folder/f"):
        with pytest.raises(ValueError, match="a symbolic link, and a run holds none"):
            place.link(source, "b/g")
    for source in ("a/fifo", "a", "a/f/below", "a/missing", "missing/f"):
        with pytest.raises(FileNotFoundError):
            place.link(source, "b/g")
    with pytest.raises(StorageError, match="symbolic link"):
        place.link("a/f", "a/folder/new")
    assert place.list("b") == []
    assert [path.name for path in outside.iterdir()] == ["f"]


def test_a_link_that_took_the_place_of_the_file_meanwhile_gets_no_second_name(
    place: LocalStorage, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("a/f", [b"x"])
    link = os.link

    def swapped(*names: str, **options: Any) -> None:
        Path(place.url, "a", "f").unlink()
        Path(place.url, "a", "f").symlink_to(outside / "f")
        link(*names, **options)

    monkeypatch.setattr(os, "link", swapped)
    with pytest.raises((StorageError, ValueError), match="symbolic link"):
        place.link("a/f", "b/g")
    assert place.list("b") == []


def test_an_io_error_is_told_with_the_place(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("f", [b"data"])
    monkeypatch.setattr(os, "preadv", failing(errno.EIO))
    with pytest.raises(StorageError, match=r"cannot read .*f: Input/output error"):
        place.read("f")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a file `f`, which links in the run lead to."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_bytes(b"private")
    return folder


def test_a_link_in_a_run_is_not_read_through(place: LocalStorage, outside: Path) -> None:
    place.write("a/g", [b"x"])
    Path(place.url, "a", "file").symlink_to(outside / "f")
    Path(place.url, "a", "folder").symlink_to(outside)
    for path in ("a/file", "a/folder/f"):
        for call in (place.read, place.size, lambda path: place.read_into(path, memoryview(bytearray(1)))):
            with pytest.raises(ValueError, match="a symbolic link, and a run holds none"):
                call(path)
    with pytest.raises(StorageError, match=r"cannot list .*folder is a symbolic link") as caught:
        place.list("a/folder")
    assert "without following links" in str(caught.value.hint)


def test_a_link_in_a_run_is_not_written_or_removed_through(place: LocalStorage, outside: Path) -> None:
    place.write("a/g", [b"x"])
    Path(place.url, "a", "folder").symlink_to(outside)
    for attempt in (
        lambda: place.write("a/folder/f", [b"other"]),
        lambda: place.write("a/folder/new", [b"other"]),
        lambda: place.create("a/folder/new", b"other"),
        lambda: place.remove("a/folder/f"),
    ):
        with pytest.raises(StorageError, match="symbolic link"):
            attempt()
    assert [path.name for path in outside.iterdir()] == ["f"]
    assert (outside / "f").read_bytes() == b"private"


def test_a_link_is_replaced_or_removed_itself_and_never_what_it_leads_to(place: LocalStorage, outside: Path) -> None:
    place.write("g", [b"x"])
    for name in ("one", "two"):
        Path(place.url, name).symlink_to(outside / "f")
    place.write("one", [b"mine"])
    place.remove("two")
    assert not Path(place.url, "one").is_symlink()
    assert (outside / "f").read_bytes() == b"private"


def test_the_root_itself_may_be_a_link(outside: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    place = LocalStorage(tmp_path / "link")
    place.write("a/g", [b"x"])
    assert (outside / "a" / "g").read_bytes() == place.read("a/g") == b"x"


def test_the_lock_is_no_link(place: LocalStorage, outside: Path) -> None:
    place.write("g", [b"x"])
    Path(place.url, "lock").symlink_to(outside / "made")
    with pytest.raises(StorageError, match=r"cannot lock .*symbolic link"):
        place.lock("lock")
    assert not (outside / "made").exists()


def test_free_space_is_that_of_the_disk_also_before_the_folder_is_there(place: LocalStorage, tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = place.free_bytes()
    assert free is not None
    assert 0 < free <= disk.f_blocks * disk.f_frsize
    assert not Path(place.url).exists()


HOLD = """
import sys
from pathlib import Path
from resumable.store.storage.local import LocalStorage
try:
    LocalStorage(Path(sys.argv[1])).lock("lock")
except BlockingIOError:
    print("held", flush=True)
else:
    print("mine", flush=True)
    sys.stdin.read()
"""


def holder(root: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD, root], stdin=-1, stdout=-1, text=True)


def first_line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def test_a_lock_keeps_other_programs_out_and_dies_with_its_owner(place: LocalStorage) -> None:
    with holder(place.url) as owner:
        assert first_line(owner) == "mine"
        with pytest.raises(BlockingIOError):
            place.lock("lock")
        owner.kill()
    release = place.lock("lock")
    with holder(place.url) as other:
        assert first_line(other) == "held"
    release()
    with holder(place.url) as other:
        assert first_line(other) == "mine"
        other.kill()


def test_a_lock_keeps_this_program_out_too(place: LocalStorage, tmp_path: Path) -> None:
    release = place.lock("lock")
    (tmp_path / "other").symlink_to(tmp_path / "runs")
    with pytest.raises(BlockingIOError):
        LocalStorage(tmp_path / "other" / "run").lock("lock")
    release()
    place.lock("lock")()


def test_a_forked_worker_neither_inherits_nor_releases_the_lock(place: LocalStorage) -> None:
    release = place.lock("lock")
    child = os.fork()
    if not child:
        try:
            release()
            place.lock("lock")
        except BlockingIOError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with holder(place.url) as other:
        assert first_line(other) == "held"
    release()


def test_a_filesystem_without_locks_has_none(place: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "lockf", failing(errno.ENOLCK))
    place.lock("lock")()
    monkeypatch.setattr(fcntl, "lockf", failing(errno.EIO))
    with pytest.raises(StorageError, match="cannot lock"):
        place.lock("lock")


def test_a_folder_that_cannot_be_looked_at_for_its_space_is_a_storage_error(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(self: Path, **_: Any) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(StorageError, match=r"cannot look at .*: Stale file handle"):
        place.free_bytes()


def test_where_there_are_no_hard_links_a_create_that_fails_leaves_nothing(
    place: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("a/other", [b""])
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    write, calls = os.write, itertools.count()

    def full_at_the_second(file: int, data: memoryview) -> int:
        if next(calls) == 1:
            write(file, data[:2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(os, "write", full_at_the_second)
    with pytest.raises(StorageError, match="No space left"):
        place.create("a/f", b"token")
    assert [entry.name for entry in place.list("a")] == ["other"]
    place.create("a/f", b"token")
    assert place.read("a/f") == b"token"
