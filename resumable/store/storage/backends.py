"""What fsspec's filesystems differ in, behind one face; knows no runs, no relative paths and no words for users.

Failures leave as the filesystem raises them. Nothing is repeated here, and what is particular is in `s3` and `sftp`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol, cast

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]


class Unconditional(NotImplementedError):
    """The server says that it knows no conditional writes."""


class Upload(Protocol):
    """A file that is written piece by piece, and there, whole, after `commit`."""

    def write(self, piece: memoryview) -> None:
        """Append to it. The memory may be used again on return."""
        ...

    def commit(self) -> None:
        """Make it visible."""
        ...

    def abandon(self) -> None:
        """Leave it so that nothing publishes what there is. Never raises."""
        ...


class FileUpload:
    """`Upload` by the file that the filesystem opens for writing."""

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
        """Leave it so that closing it, also when it is collected, does not publish what there is."""
        with suppress(Exception):
            self._file.discard()
        if isinstance(self._file, AbstractBufferedFile):
            self._file.closed = True
            return
        with suppress(Exception):
            self._file.close()
        with suppress(Exception):  # seen while it grew
            self._backend.remove(self._at)


class Backend:
    """Any filesystem of fsspec that nothing else uses; its listing cache is turned off."""

    has_folders = True
    parallel = 1
    """How many files may be written at once to advantage."""

    def __init__(self, file_system: AbstractFileSystem) -> None:
        self._fs = file_system
        # Not an argument of the constructor: sftp hands all of those to the connection.
        with suppress(AttributeError):
            file_system.dircache.use_listings_cache = False

    @property
    def conditional(self) -> bool:
        """Whether `put_new` asks the server to refuse. Whether that does must be tried out."""
        # fsspec's own asks first, and then writes. The method of an async filesystem belongs to the instance.
        return getattr(self._fs.pipe_file, "__func__", None) is not AbstractFileSystem.pipe_file

    def using(self) -> AbstractContextManager[Any]:
        """The filesystem, for one call."""
        return nullcontext(self._fs)

    def get(self, at: str, start: int, stop: int) -> bytes:
        """The bytes of a range; fewer only where the file ends. `FileNotFoundError`."""
        try:
            with self.using() as file_system:
                data = bytes(file_system.cat_file(at, start=start, end=stop)[: stop - start])
        except FileNotFoundError:
            raise
        except Exception:
            if self.size(at) > start:
                raise
            return b""  # a range that starts at the end is an error to some
        if len(data) < stop - start and start + len(data) < self.size(at):
            raise ConnectionResetError(errno.ECONNRESET, f"the answer ended after {len(data)} bytes")
        return data

    def fill(self, at: str, pieces: Sequence[tuple[int, memoryview]]) -> int:
        """Read what lies at each of these offsets, which follow each other; how many bytes there were in all.

        What stands in the memory behind these is undefined. `FileNotFoundError`.
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
        """In bytes. `FileNotFoundError` also for what is not a file."""
        with self.using() as file_system:
            file_system.invalidate_cache(file_system._parent(at))
            found = file_system.info(at)
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "not a file")
        return int(found["size"])

    def drop_cache(self, at: str) -> None:
        """Forget what the filesystem knows of a file. No handle is kept: each read is a new request."""
        with self.using() as file_system:
            file_system.invalidate_cache(file_system._parent(at))
            file_system.invalidate_cache(at)

    def children(self, folder: str) -> list[dict[str, Any]]:
        """What fsspec lists. `FileNotFoundError`."""
        with self.using() as file_system:
            file_system.invalidate_cache(folder)
            return cast(list[dict[str, Any]], file_system.ls(folder, detail=True))

    def put(self, at: str, data: bytes) -> None:
        """Write a whole file. `FileNotFoundError` where a folder is missing."""
        with self.using() as file_system:
            file_system.pipe_file(at, data)

    def put_new(self, at: str, data: bytes) -> None:
        """As `put`, with the condition that nothing is there: `FileExistsError`, `Unconditional`."""
        with self.using() as file_system:
            file_system.pipe_file(at, data, mode="create")

    def begin(self, at: str) -> Upload:
        """Begin a file. `FileNotFoundError` where a folder is missing."""
        return FileUpload(self, at)

    def remove(self, at: str) -> None:
        """Remove a file. `FileNotFoundError`, or nothing."""
        with self.using() as file_system:
            file_system.rm_file(at)

    def remove_folder(self, folder: str) -> None:
        """Remove what must be an empty folder; some backends would remove what is in it."""
        with self.using() as file_system:
            file_system.rmdir(folder)

    def make_folder(self, folder: str) -> None:
        """Make one folder. `FileExistsError`; `FileNotFoundError` where the one above is missing."""
        with self.using() as file_system:
            file_system.mkdir(folder, create_parents=False)
