"""File operations by name in an open folder, none of which follows a symbolic link. Independent of runs.

The bytes of a run may come from anybody. So a path is never opened as a whole, but name by name, each in the descriptor
of the folder before it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from resumable.store.storage.direct_io import SYSCALL_BYTES, permissions_of, sync
from resumable.store.storage.protocol import Entry, Seen

SEEN_BYTES = 512 * 2**10  # stays in the fastest of the large caches until `seen` has looked at it

# Passing through a folder needs no right to list it.
FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class PathAt(NamedTuple):
    """A name in an open folder."""

    name: str
    folder: int


def open_folder(path: PathAt) -> int:
    """Open a folder for naming what is in it; `OSError` with ELOOP for a symbolic link."""
    try:
        return os.open(path.name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=path.folder)
    except NotADirectoryError as error:
        if stat.S_ISLNK(os.stat(path.name, dir_fd=path.folder, follow_symlinks=False).st_mode):
            raise _is_a_link(path.name) from error
        raise


@contextmanager
def opened(path: PathAt) -> Iterator[int]:
    """Open a regular file for reading."""
    # O_NONBLOCK: opening a FIFO that somebody put into a run must not wait for its other end.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    file = os.open(path.name, flags, dir_fd=path.folder)
    try:
        _regular(os.fstat(file))
        yield file
    finally:
        os.close(file)


def size_at(path: PathAt) -> int:
    """Return the size of a regular file in bytes."""
    return _regular(os.stat(path.name, dir_fd=path.folder, follow_symlinks=False)).st_size


def permissions_at(path: PathAt) -> int | None:
    """Return who may read, write and execute a regular file; None if there is none."""
    try:
        found = os.stat(path.name, dir_fd=path.folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return permissions_of(found) if stat.S_ISREG(found.st_mode) else None


def read_at(file: int, buffer: memoryview, offset: int, seen: Seen | None = None) -> int:
    """Read an open file from `offset` on into `buffer`; return how many bytes there were."""
    done, step = 0, SEEN_BYTES if seen else SYSCALL_BYTES
    while done < len(buffer):
        got = os.preadv(file, [buffer[done : done + step]], offset + done)
        if not got:
            break
        if seen:
            seen(buffer[done : done + got], offset + done)
        done += got
    return done


class GrowingFile:
    """A new file that one writer appends to."""

    def __init__(self, path: PathAt) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file: int | None = os.open(path.name, flags, 0o666, dir_fd=path.folder)
        sync_folder(path.folder)

    def write(self, data: bytes) -> None:
        """Append by one system call; `OSError` if that is not possible, or only in part."""
        if os.write(self._open(), data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Make what was written durable."""
        sync(self._open())

    def close(self) -> None:
        """Close the file; safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> int:
        if self._file is None:
            raise OSError(errno.EBADF, "the file is closed")
        return self._file


def replace(temporary: PathAt, target: PathAt) -> None:
    """Rename a file, also over another one, and make the new name durable."""
    os.replace(temporary.name, target.name, src_dir_fd=temporary.folder, dst_dir_fd=target.folder)
    sync_folder(target.folder)


def link(source: PathAt, target: PathAt) -> bool:
    """Give a file a second name; return False where there are no hard links. `FileExistsError` if it is taken."""
    try:
        os.link(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return False
    return True


def unlink(path: PathAt) -> None:
    """Remove a file, not yet durably."""
    os.unlink(path.name, dir_fd=path.folder)


def sync_folder(folder: int | Path) -> None:
    """Make the names in a folder durable."""
    with _listable(folder) as file:
        sync(file)


def list_folder(folder: int) -> list[Entry]:
    """Return what is in an open folder, by name."""
    with _listable(folder) as file, os.scandir(file) as children:
        return sorted(_entries(children))


@contextmanager
def _listable(folder: int | Path) -> Iterator[int]:
    """Open a folder for reading: one that was opened to pass through can neither be listed nor synced."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    file = os.open(".", flags, dir_fd=folder) if isinstance(folder, int) else os.open(folder, flags)
    try:
        yield file
    finally:
        os.close(file)


def _entries(children: Iterable[os.DirEntry[str]]) -> Iterator[Entry]:
    for child in children:
        # A link to a folder is listed as a folder: opening it is an error, and it is not taken for an empty place.
        if not child.is_file(follow_symlinks=False):
            yield Entry(child.name, child.is_dir() or child.is_symlink())
            continue
        try:
            found = child.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # removed meanwhile
        yield Entry(child.name, False, found.st_size, found.st_ino, found.st_nlink)


def _regular(found: os.stat_result) -> os.stat_result:
    if stat.S_ISLNK(found.st_mode):
        raise _is_a_link("it")
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return found


def _is_a_link(name: str) -> OSError:
    return OSError(errno.ELOOP, f"{name} is a symbolic link")
