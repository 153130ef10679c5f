"""Write one new file durably, past the page cache where possible. Independent of runs.

Direct writes spare the training's memory bandwidth and cache, and keep the disk busy from the first byte on.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable

# Of the offset in the file, of the length and of the memory: a page is enough everywhere.
ALIGNMENT_BYTES = 4096
# For less, direct writes measured no better.
DIRECT_BYTES = 2**20
SYSCALL_BYTES = 32 * 2**20  # at most, of one read or write

_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_F_FULLFSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def write_durably(
    name: str, chunks: Iterable[bytes | memoryview], *, folder: int, permissions: int | None = None
) -> None:
    """Create the file `name` in the open `folder`; on return its bytes are durable, its name is not yet.

    It has these `permissions` before its first byte is written; None for those of the umask. The memory of a chunk may
    be reused once the next one is requested. `FileExistsError` if the file exists.
    """
    created = 0o666 if permissions is None else permissions
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, created, dir_fd=folder)
    try:
        # File systems without permissions show the same for every file, and may refuse to set any.
        if permissions is not None and permissions_of(os.fstat(file)) != permissions:
            os.fchmod(file, permissions)
        output = _DirectFile(file)
        for chunk in chunks:
            output.write(memoryview(chunk).cast("B"))
        sync(file)
    finally:
        os.close(file)


def sync(file: int) -> None:
    """Make the bytes of an open file, or the names in an open folder, durable.

    On macOS `fsync` leaves them in the memory of the disk, and `F_FULLFSYNC` does not.
    """
    if _F_FULLFSYNC is not None:
        try:
            fcntl.fcntl(file, _F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (*_REFUSED, errno.ENOTTY):
                raise
    os.fsync(file)


def permissions_of(found: os.stat_result) -> int:
    """Return who may read, write and execute a file."""
    return found.st_mode & 0o777


class _DirectFile:
    """A file written from start to end: large aligned parts directly, the rest through the page cache."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._offset = 0
        self._direct = False
        self._may_be_direct = bool(_O_DIRECT)

    def write(self, rest: memoryview) -> None:
        while rest:
            written = self._write_some(rest)
            self._offset += written
            rest = rest[written:]

    def _write_some(self, rest: memoryview) -> int:
        aligned_bytes = len(rest) // ALIGNMENT_BYTES * ALIGNMENT_BYTES if self._offset % ALIGNMENT_BYTES == 0 else 0
        self._switch(direct=self._may_be_direct and aligned_bytes >= DIRECT_BYTES)
        if not self._direct:
            return os.write(self._file, rest[:SYSCALL_BYTES])
        try:
            return os.write(self._file, rest[: min(aligned_bytes, SYSCALL_BYTES)])
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        # This file system has no direct writes after all, or none from this memory.
        self._may_be_direct = False
        return 0

    def _switch(self, *, direct: bool) -> None:
        if direct == self._direct:
            return
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | _O_DIRECT if direct else flags & ~_O_DIRECT)
        except OSError as error:
            if not direct or error.errno not in _REFUSED:
                raise
            self._may_be_direct = False
        else:
            self._direct = direct
