"""Storage on any fsspec filesystem, without caches. Independent of runs and checkpoints.

In object stores a file becomes visible when it is complete, and over sftp by a rename. On some others (ftp) it is
visible while it grows, and a torn one stays after a crash. So readers rely on the content of a file, never on its being
there.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from resumable.errors import StorageError
from resumable.store.storage.backends import Backend
from resumable.store.storage.own_files import probe_path
from resumable.store.storage.protocol import Entry, Seen, checked, looked_up, reported
from resumable.store.storage.s3.backend import S3
from resumable.store.storage.sftp import Sftp
from resumable.utils.location import NONE, Secrets, file_location, scrubbed, showable

T = TypeVar("T")

SINGLE_REQUEST_BYTES = 32 * 2**20  # up to here a file is written by one request
REQUEST_BYTES = 16 * 2**20  # of one request for a range, or of one write to a file that the backend uploads in parts

# One for the whole program: two instances may share one location, and exists-then-write is two calls.
_creating = threading.Lock()


class FsspecStorage:
    """`Storage` below `root` of a filesystem that nothing else uses (its listing cache is turned off).

    Without `probe` it never tries out whether create is exclusive, and counts as not exclusive.
    """

    patience_seconds = 60.0
    locks = False
    readers = 1  # the backend requests the parts of one read at once
    caches_reads = False

    def __init__(
        self, file_system: AbstractFileSystem, root: str, url: str, *, probe: bool = True, hide: Secrets = NONE
    ) -> None:
        self._backend = _backend_of(file_system)
        self.parallel = self._backend.parallel
        self.removed_at_once = self._backend.removed_at_once
        self.range_bytes = REQUEST_BYTES * self.parallel
        self._root = root.rstrip("/")
        self._may_probe = probe
        # The same at each try, so that the next one removes what this one could not.
        self._probe = probe_path()
        self.url = url.rstrip("/")
        self._hide = hide

    @cached_property
    def exclusive(self) -> bool:
        """Try it out: servers that ignore the condition of a write report success."""
        if not self._may_probe or not self._backend.conditional:
            return False
        with reported("write", self._shown(self._probe), Exception, hide=self._hide):
            try:
                return self._refuses_second()
            finally:
                self.remove(self._probe)

    def _refuses_second(self) -> bool:
        try:
            self._in_folder(self._probe, lambda: self._backend.put_new(self._at(self._probe), b"first"))
            self._backend.put_new(self._at(self._probe), b"second")
        except FileExistsError:
            return True  # also if it refuses the first one, whose answer was lost
        except (NotImplementedError, TypeError):
            pass
        return False

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        if max_bytes is None:
            buffer = bytearray(self.size(path))
            return bytes(buffer[: self.read_into(path, memoryview(buffer))])
        # One request: one byte more than allowed shows that the file is too long.
        data = self._range(path, 0, max_bytes + 1)
        if len(data) > max_bytes:
            raise ValueError(f"{self.size(path)} bytes, more than the {max_bytes} allowed")
        return data

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        target = buffer.cast("B")
        starts = range(0, len(target), REQUEST_BYTES)
        pieces = [(offset + start, target[start : start + REQUEST_BYTES]) for start in starts]
        with looked_up("read", self._shown(path), Exception, hide=self._hide):
            got = self._backend.fill(self._at(path), pieces)
        if seen:
            seen(target[:got], offset)
        return got

    def _range(self, path: str, start: int, stop: int) -> bytes:
        with looked_up("read", self._shown(path), Exception, hide=self._hide):
            return self._backend.get(self._at(path), start, stop)

    def size(self, path: str) -> int:
        with looked_up("look at", self._shown(path), Exception, hide=self._hide):
            return self._backend.size(self._at(path))

    def drop_cache(self, path: str) -> None:
        with suppress(Exception):
            self._backend.drop_cache(self._at(path))

    def list(self, path: str) -> list[Entry]:
        folder = self._at(path)
        try:
            with reported("list", self._shown(path), Exception, hide=self._hide):
                children = self._backend.children(folder)
        except FileNotFoundError:
            return []
        return sorted(set(_entries(children, folder)))

    def list_below(self, path: str) -> Mapping[str, Sequence[Entry]] | None:
        with reported("list", self._shown(path), Exception, hide=self._hide):
            files = self._backend.below(self._at(path))
        return None if files is None else _by_folder(files, self._at(path))

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        pieces = _pieces(chunks)
        # Copies: the memory of a piece may be reused for the next. No `BytesIO`: Python 3.12 crashes when it collects
        # one as garbage together with a view of it.
        head: list[bytes] = []
        size = 0
        with reported("write", self._shown(path), Exception, hide=self._hide):
            for piece in pieces:
                size += len(piece)
                if size > SINGLE_REQUEST_BYTES:
                    self._stream(path, chain(map(memoryview, head), [piece], pieces))
                    return
                head.append(bytes(piece))
            self._in_folder(path, lambda: self._backend.put(self._at(path), b"".join(head)))

    def _stream(self, path: str, pieces: Iterator[memoryview]) -> None:
        upload = self._in_folder(path, lambda: self._backend.begin(self._at(path)))
        try:
            for piece in pieces:
                upload.write(piece)
            upload.commit()
        except BaseException:
            upload.abandon()
            raise

    def link(self, source: str, target: str) -> bool:
        """Return False: there are no hard links, so a shared blob is named by its path in the manifest."""
        checked(source), checked(target)
        return False

    def create(self, path: str, data: bytes) -> None:
        with reported("write", self._shown(path), Exception, hide=self._hide):
            create = self._create_exclusively if self.exclusive else self._create_politely
            with _creating:
                create(path, data)

    def append(self, path: str) -> None:
        """Return None: an object never grows."""
        checked(path)

    def _create_exclusively(self, path: str, data: bytes) -> None:
        try:
            self._in_folder(path, lambda: self._backend.put_new(self._at(path), data))
        except FileExistsError:
            if not self._is_own(path, data):
                raise

    def _create_politely(self, path: str, data: bytes) -> None:
        """Look, write and read back, which is not exclusive."""
        with suppress(FileNotFoundError):
            self.size(path)
            if self._is_own(path, data):
                return
            raise FileExistsError(errno.EEXIST, f"{self._shown(path)} is there already")
        self.write(path, [data])
        if not self._is_own(path, data):
            raise FileExistsError(errno.EEXIST, f"{self._shown(path)} was written by another program at the same time")

    def _is_own(self, path: str, data: bytes) -> bool:
        """Return whether the file has this very content: a retry is refused if only the first answer was lost."""
        try:
            return self.read(path, max_bytes=len(data)) == data
        except ValueError:
            return False

    def remove(self, path: str) -> None:
        with reported("remove", self._shown(path), Exception, hide=self._hide), suppress(FileNotFoundError):
            self._backend.remove(self._at(path))

    def remove_all(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), self.removed_at_once):
            some = paths[start : start + self.removed_at_once]
            if len(some) == 1:
                self.remove(some[0])
                continue
            with reported("remove", f"{self._shown(some[0])} and others", Exception, hide=self._hide):
                self._backend.remove_all([self._at(path) for path in some])

    def remove_dir(self, path: str) -> None:
        folder = self._at(path)
        if not self._backend.has_folders or self.list(path):  # some filesystems remove its content too
            return
        with suppress(OSError, NotImplementedError):
            self._backend.remove_folder(folder)

    def free_bytes(self) -> int | None:
        return None

    def lock(self, path: str) -> Callable[[], None]:
        """Do nothing: there are no locks, so the newer attempt takes over."""
        checked(path)
        return lambda: None

    def _at(self, path: str) -> str:
        return f"{self._root}/{checked(path)}" if path else self._root

    def _shown(self, path: str) -> str:
        return file_location(self.url, checked(path)) if path else self.url

    def _in_folder(self, path: str, action: Callable[[], T]) -> T:
        """Call `action`, which writes `path`; if a folder is missing, make it and call `action` again."""
        try:
            return action()
        except FileNotFoundError:
            self._make_folder(self._at(path).rpartition("/")[0])
        try:
            return action()
        except FileNotFoundError as error:
            raise self._no_bucket(path, error) from showable(error, self._hide)

    def _make_folder(self, folder: str) -> None:
        parent = folder.rpartition("/")[0]
        if not parent.strip("/"):
            return  # a bucket, or a share, which the user makes
        try:
            self._backend.make_folder(folder)
        except FileExistsError:
            pass
        except FileNotFoundError:
            self._make_folder(parent)
            with suppress(FileNotFoundError, FileExistsError):
                self._backend.make_folder(folder)

    def _no_bucket(self, path: str, error: Exception) -> StorageError:
        reason = scrubbed(getattr(error, "strerror", None) or str(error), self._hide)
        result = StorageError(
            f"cannot write {self._shown(path)}: {reason}",
            "make the bucket (or the share) first, and check its name in `run`",
        )
        result.errno = errno.ENOENT
        return result


def _backend_of(file_system: AbstractFileSystem) -> Backend:
    """Return the most specific backend for this filesystem."""
    protocols = {file_system.protocol} if isinstance(file_system.protocol, str) else set(file_system.protocol)
    if "s3" in protocols and hasattr(file_system, "call_s3"):
        return S3(file_system)
    if "sftp" in protocols and hasattr(file_system, "ftp"):
        return Sftp(file_system)
    return Backend(file_system)


def _entries(children: Iterable[dict[str, Any]], folder: str) -> Iterator[Entry]:
    inside = folder.strip("/") + "/"
    for child in children:
        path = child["name"].strip("/")
        name = path.removeprefix(inside)
        # Stores without folders may list a marker, or a file, named like the folder itself.
        if path.startswith(inside) and name and "/" not in name:
            is_dir = child["type"] == "directory"
            yield Entry(name, is_dir, None if is_dir else child.get("size"))


def _by_folder(files: Iterable[dict[str, Any]], top: str) -> dict[str, list[Entry]]:
    """Return the children of each folder in `top`, given all files below it."""
    inside = top.strip("/") + "/"
    found: dict[str, set[Entry]] = {}
    for file in files:
        folder, _, rest = file["name"].strip("/").removeprefix(inside).partition("/")
        name, _, deeper = rest.partition("/")
        if name:
            found.setdefault(folder, set()).add(Entry(name, bool(deeper), None if deeper else file.get("size")))
    return {folder: sorted(entries) for folder, entries in found.items()}


def _pieces(chunks: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """Yield the same bytes in pieces that a backend may copy without doubling the memory of the program."""
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), REQUEST_BYTES):
            yield view[start : start + REQUEST_BYTES]
