"""One interface over the filesystems of fsspec. Independent of runs, relative paths and messages for users.

Errors pass as the filesystem raises them. Nothing is retried here; `s3` and `sftp` hold what is special about those.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol, cast

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]


class Unconditional(NotImplementedError):
    """The server reports that it has no conditional writes."""


class Upload(Protocol):
    """A file that is written piece by piece, and becomes visible, whole, with `commit`."""

    def write(self, piece: memoryview) -> None:
        """Append to it. The memory may be reused on return."""
        ...

    def commit(self) -> None:
        """Make it visible."""
        ...

    def abandon(self) -> None:
        """Give it up, so that nothing publishes the part that was written. Never raises."""
        ...


class FileUpload:
    """`Upload` through the file that the filesystem opens for writing."""

    def __init__(self, backend: Backend, at: str) -> None:
        self._backend = backend
        self._at = at
        with backend.using() as file_system:
            self._file = file_system.open(at, "wb")

    def write(self, piece: memoryview) -> None:
        with self._backend.using():
            self._file.write(piece)

    def commit(self) -> None:
        with self._backend.using():
            self._file.close()

    def abandon(self) -> None:
        """Give it up, so that closing it, also by the garbage collector, does not publish the part written."""
        with suppress(Exception):
            self._file.discard()
        if isinstance(self._file, AbstractBufferedFile):
            self._file.closed = True
            return
        with suppress(Exception):
            self._file.close()
        with suppress(Exception):  # it was visible while it grew
            self._backend.remove(self._at)


class Backend:
    """Any filesystem of fsspec that nothing else uses; its listing cache is turned off."""

    has_folders = True
    parallel = 1
    """How many files are best written at once."""
    removed_at_once = 1
    """How many files `remove_all` takes."""

    def __init__(self, file_system: AbstractFileSystem) -> None:
        self._fs = file_system
        # Not an argument of the constructor: sftp passes all of those to the connection.
        with suppress(AttributeError):
            file_system.dircache.use_listings_cache = False

    @property
    def conditional(self) -> bool:
        """Return whether `put_new` requests a conditional write. Only a probe shows whether the server honors it."""
        # fsspec's own looks first, and then writes. The method of an async filesystem belongs to the instance.
        return getattr(self._fs.pipe_file, "__func__", None) is not AbstractFileSystem.pipe_file

    def using(self) -> AbstractContextManager[Any]:
        """Give the filesystem for one call."""
        return nullcontext(self._fs)

    def get(self, at: str, start: int, stop: int) -> bytes:
        """Read a range; return fewer bytes only where the file ends. `FileNotFoundError`."""
        try:
            with self.using() as file_system:
                data = bytes(file_system.cat_file(at, start=start, end=stop)[: stop - start])
        except FileNotFoundError:
            raise
        except Exception:
            if self.size(at) > start:
                raise
            return b""  # some raise an error for a range that starts at the end
        if len(data) < stop - start and start + len(data) < self.size(at):
            raise ConnectionResetError(errno.ECONNRESET, f"the answer ended after {len(data)} bytes")
        return data

    def fill(self, at: str, pieces: Sequence[tuple[int, memoryview]]) -> int:
        """Read the bytes at each of these adjacent offsets; return how many there were in all.

        The memory behind them is undefined. `FileNotFoundError`.
        """
        got = 0
        for start, target in pieces:
            data = self.get(at, start, start + len(target))
            target[: len(data)] = data
            got += len(data)
            if len(data) < len(target):
                break
        return got

    def size(self, at: str) -> int:
        """Return the size in bytes; `FileNotFoundError` also for what is not a file."""
        with self.using() as file_system:
            file_system.invalidate_cache(file_system._parent(at))
            found = file_system.info(at)
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "not a file")
        return int(found["size"])

    def drop_cache(self, at: str) -> None:
        """Drop what the filesystem has cached of a file. No handle is kept: each read is a new request."""
        with self.using() as file_system:
            file_system.invalidate_cache(file_system._parent(at))
            file_system.invalidate_cache(at)

    def children(self, folder: str) -> list[dict[str, Any]]:
        """Return the listing of fsspec. `FileNotFoundError`."""
        with self.using() as file_system:
            file_system.invalidate_cache(folder)
            return cast(list[dict[str, Any]], file_system.ls(folder, detail=True))

    def below(self, folder: str) -> list[dict[str, Any]] | None:
        """Return all files below a folder, as `children` does; None where that takes a request for each folder."""
        return None

    def put(self, at: str, data: bytes) -> None:
        """Write a whole file. `FileNotFoundError` if a folder is missing."""
        with self.using() as file_system:
            file_system.pipe_file(at, data)

    def put_new(self, at: str, data: bytes) -> None:
        """Write a whole file on the condition that it does not exist: `FileExistsError`, `Unconditional`."""
        with self.using() as file_system:
            file_system.pipe_file(at, data, mode="create")

    def begin(self, at: str) -> Upload:
        """Begin a file. `FileNotFoundError` if a folder is missing."""
        return FileUpload(self, at)

    def remove(self, at: str) -> None:
        """Remove a file. A missing one is no failure, or a `FileNotFoundError`."""
        with self.using() as file_system:
            file_system.rm_file(at)

    def remove_all(self, ats: Sequence[str]) -> None:
        """Remove several files, in any order. A missing one is no failure."""
        for at in ats:
            with suppress(FileNotFoundError):
                self.remove(at)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder, which must be empty: some filesystems remove its content too."""
        with self.using() as file_system:
            file_system.rmdir(folder)

    def make_folder(self, folder: str) -> None:
        """Make one folder. `FileExistsError`; `FileNotFoundError` if the one above is missing."""
        with self.using() as file_system:
            file_system.mkdir(folder, create_parents=False)
