"""Files past the page cache: what is large and aligned goes directly, and every byte arrives in any case."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from resumable.store.storage import direct_io
from resumable.store.storage.direct_io import ALIGNMENT_BYTES, write_durably

PAGE = ALIGNMENT_BYTES


@pytest.fixture(autouse=True)
def _large_is_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "DIRECT_BYTES", PAGE)
    monkeypatch.setattr(direct_io, "SYSCALL_BYTES", 4 * PAGE)


def aligned(size: int, *, off: int = 0) -> memoryview:
    """Memory that begins `off` bytes after the begin of a page."""
    memory = memoryview(mmap.mmap(-1, max(size + off, 1)))[off : off + size]
    memory[:] = bytes(number * 7 % 251 for number in range(size))
    return memory


class Written:
    """What was written to one file: how much at a time, where, and whether directly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[bool, int]] = []
        self._real = os.write
        monkeypatch.setattr(os, "write", self._write)

    def _write(self, file: int, data: memoryview) -> int:
        goes_directly = bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT)
        written = self._real(file, data)
        self.calls.append((goes_directly, written))
        return written


def put(folder: Path, chunks: Iterable[bytes | memoryview]) -> bytes:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        write_durably("f", chunks, folder=opened)
    finally:
        os.close(opened)
    return (folder / "f").read_bytes()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on a file system that does it."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("no direct writes here")
    return tmp_path


def test_a_large_file_is_written_directly_but_for_its_last_bytes(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    data = aligned(10 * PAGE + 17)
    assert put(disk, [data]) == data
    assert written.calls == [(True, 4 * PAGE), (True, 4 * PAGE), (True, 2 * PAGE), (False, 17)]


def test_a_small_file_is_written_through_the_cache_in_one(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    assert put(disk, [aligned(PAGE - 1)]) == aligned(PAGE - 1)
    assert written.calls == [(False, PAGE - 1)]


def test_after_an_odd_piece_the_rest_goes_through_the_cache_until_the_place_is_even_again(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written(monkeypatch)
    chunks = [aligned(PAGE), aligned(10), aligned(2 * PAGE), b"", aligned(PAGE - 10), aligned(3 * PAGE)]
    assert put(disk, chunks) == b"".join(chunks)
    assert [size for goes_directly, size in written.calls if goes_directly] == [PAGE, 3 * PAGE]


@pytest.mark.parametrize("off", [1, 8, 512, 1000])
def test_memory_that_is_not_aligned_is_written_all_the_same(disk: Path, off: int) -> None:
    data = aligned(9 * PAGE + 5, off=off)
    assert put(disk, [data]) == data


def test_short_writes_are_continued_directly_or_not(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, write = aligned(12 * PAGE), os.write
    for short in (PAGE, PAGE // 8, 100):
        monkeypatch.setattr(os, "write", lambda file, view, short=short: write(file, view[:short]))
        (disk / "f").unlink(missing_ok=True)
        assert put(disk, [data]) == data


REFUSALS = ["at the switch", "at the first write", "at the second write"]


@pytest.mark.parametrize("when", REFUSALS)
def test_a_file_system_that_refuses_is_written_to_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    refused = refusing(monkeypatch, when)
    data = aligned(10 * PAGE + 3)
    assert put(tmp_path, [data[: 5 * PAGE], data[5 * PAGE :]]) == data
    assert refused() == 1  # and it is not asked again


def refusing(monkeypatch: pytest.MonkeyPatch, when: str) -> Callable[[], int]:
    """Let this file system be one without direct writes, which it says at a certain call; how often it has."""
    control, write, allowed, refusals = fcntl.fcntl, os.write, REFUSALS.index(when) - 1, [0]
    direct_files: set[int] = set()

    def refuse() -> None:
        refusals[0] += 1
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def controlled(file: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL:
            if flags & os.O_DIRECT and when == "at the switch":
                refuse()
            direct_files.add(file) if flags & os.O_DIRECT else direct_files.discard(file)
            flags &= ~os.O_DIRECT
        return control(file, command, flags)

    def written(file: int, data: memoryview) -> int:
        nonlocal allowed
        if file in direct_files:
            if not allowed:
                refuse()
            allowed -= 1
        return write(file, data)

    monkeypatch.setattr(fcntl, "fcntl", controlled)
    monkeypatch.setattr(os, "write", written)
    return lambda: refusals[0]


def test_other_failures_of_a_direct_write_are_told(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int, data: memoryview) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match="Input/output error"):
        put(disk, [aligned(8 * PAGE)])


def test_the_memory_of_a_chunk_is_not_looked_at_when_the_next_one_is_asked_for(disk: Path) -> None:
    memory = aligned(3 * PAGE)

    def reused() -> Iterator[memoryview]:
        for number in range(5):
            memory[:] = bytes([number]) * len(memory)
            yield memory
            memory[:] = b"z" * len(memory)

    assert put(disk, reused()) == b"".join(bytes([number]) * len(memory) for number in range(5))


def test_the_file_is_synced_when_all_is_written(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    put(disk, [aligned(5 * PAGE + 1)])
    assert sizes == [5 * PAGE + 1]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_where_the_file_system_has_no_full_sync_the_usual_one_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    synced = _without_full_sync(monkeypatch, number)
    assert put(tmp_path, [b"data"]) == b"data"
    assert len(synced) == 1


def test_a_full_sync_that_fails_is_no_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = _without_full_sync(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        put(tmp_path, [b"data"])
    assert synced == []


def _without_full_sync(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Let every full sync, as macOS has it, fail with an error; return the files that are synced otherwise."""
    real, full_sync, synced = fcntl.fcntl, -51, list[int]()

    def refused(file: int, command: int, *arguments: int) -> int:
        if command == full_sync:
            raise OSError(number, os.strerror(number))
        return real(file, command, *arguments)

    monkeypatch.setattr(direct_io, "_F_FULLFSYNC", full_sync)
    monkeypatch.setattr(fcntl, "fcntl", refused)
    monkeypatch.setattr(os, "fsync", synced.append)
    return synced
