"""Read and write one file that a user named by a path or a URL. Independent of its content."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from resumable.errors import ConfigError, CorruptCheckpointError, NoCheckpointError, StorageError
from resumable.store.storage.open import local_path, open_storage
from resumable.store.storage.protocol import Seen
from resumable.store.storage.retry import PatientStorage
from resumable.utils.location import location

_PROTOCOL = re.compile(r"[A-Za-z0-9+.-]+://")

# The hints of the storage are about runs.
_HINTS = {
    errno.ENOSPC: "free some space there: a file that is replaced stays until the new one is complete",
    errno.EDQUOT: "your quota there is used up: free some space",
    errno.EROFS: "it is mounted read-only: mount it writable, or choose another place",
    errno.ENOENT: "make the bucket (or the share) first, and check its name",
}


class File:
    """The file at a path or any fsspec URL. Opening makes no request.

    A symbolic link that a local path ends in or leads through is followed, since the user named it.

    Raises:
        ConfigError: The URL cannot be the name of a file.
    """

    def __init__(self, url: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> None:
        path = _text(url)
        self.name = self.where = location(path)
        """For messages, without secrets; two files may share one."""
        self.url = path
        local = local_path(path)
        self.local = None if local is None else os.path.realpath(os.path.expanduser(local))
        """Its path on this machine; None if it is elsewhere."""
        folder, self._path = os.path.split(self.local) if self.local else split(path)
        if not path or path.endswith("/") or not self._path or not self._path.isprintable() or "\\" in self._path:
            raise ConfigError(
                f"{self.name!r}: expected the name of a file", "add one: a folder, and a name such as x.safetensors"
            )
        self._storage: PatientStorage = open_storage(folder, options, probe=False)
        self.readers = self._storage.readers
        self.range_bytes = self._storage.range_bytes

    @classmethod
    def existing(cls, url: str, options: Mapping[str, Any] | None) -> File | None:
        """Return the file at `url`; None if there is none, or `url` cannot name a file."""
        name = split(url)[1]
        if not name or not name.isprintable() or "\\" in name:
            return None
        file = cls(url.rstrip("/"), options)
        try:
            file.size = file._storage.size(file._path)
        except (FileNotFoundError, ValueError):
            return None
        return file

    def write(self, chunks: Iterable[bytes | memoryview], *, size: int) -> None:
        """Write the whole file atomically, replacing one that exists. It is durable on return.

        `chunks` yields `size` bytes, and is iterated from its start at each try.
        """
        if self.local and os.path.exists(self.local) and not os.path.isfile(self.local):
            raise StorageError(f"cannot write {self.name}: it exists and is no regular file", "choose another name")
        try:
            self._refuse_without_space(size)
            self._storage.write(self._path, chunks)
        except StorageError as error:
            error.hint = _HINTS.get(error.errno or 0, error.hint)
            raise

    @cached_property
    def size(self) -> int:
        """Return the size in bytes at the first request; `NoCheckpointError` if there is no file."""
        return self._explained(lambda: self._storage.size(self._path))

    def read(self, buffer: memoryview, offset: int, seen: Seen | None = None) -> None:
        """Fill the whole of `buffer` from `offset` on; `seen` as in `Storage.read_into`."""
        got = self._explained(lambda: self._storage.read_into(self._path, buffer, offset=offset, seen=seen))
        if got != len(buffer):
            raise CorruptCheckpointError(f"{self.name}: {offset + got} bytes, expected {self.size}")

    def drop_cache(self) -> None:
        self._storage.drop_cache(self._path)

    def image(self) -> bytearray:
        """Read the whole file."""
        image = bytearray(self.size)
        self.read(memoryview(image), 0)
        return image

    def _refuse_without_space(self, size: int) -> None:
        free_bytes = self._storage.free_bytes()
        if free_bytes is not None and free_bytes < size:
            error = StorageError(f"cannot write {self.name}: {size:,} bytes needed, {free_bytes:,} free")
            error.errno = errno.ENOSPC
            raise error

    def _explained(self, call: Callable[[], int]) -> int:
        try:
            return call()
        except FileNotFoundError as error:
            if self._storage.list(self._path):
                raise NoCheckpointError(
                    f"{self.name}: a folder, expected a file", "the checkpoints of a run are read by resumable.Run"
                ) from error
            raise NoCheckpointError(f"{self.name}: no such file", "check the path") from error
        except ValueError as error:  # it was a file before, and is none any more
            raise NoCheckpointError(f"{self.name}: {error}", "check the path") from error


def _text(url: str | os.PathLike[str]) -> str:
    if not isinstance(url, str | os.PathLike) or not isinstance(os.fspath(url), str):
        raise ConfigError(
            f"expected a path or a URL, found a {type(url).__name__}", "name a file, as in 'x.safetensors'"
        )
    return os.fspath(url)


def split(url: str) -> tuple[str, str]:
    """Return the URL or path of the folder, and the name in it.

    The further links of a chain (`zip://a/b::s3://...`) belong to the folder.
    """
    first, chain, rest = url.partition("::")
    protocol = _PROTOCOL.match(first)
    scheme = protocol[0] if protocol else ""
    if not scheme:
        first = first.replace(os.sep, "/")  # Windows understands both
    folder, slash, name = first.removeprefix(scheme).rstrip("/").rpartition("/")
    return scheme + (folder or ("" if scheme else slash)) + chain + rest, name


def join(folder: str, name: str) -> str:
    """Return the URL or path of `name` in a folder; the inverse of `split`."""
    first, chain, rest = folder.partition("::")
    return f"{first.rstrip('/')}/{name}{chain}{rest}"
