"""Storage behind any fsspec filesystem; knows nothing of runs and checkpoints, and believes no cache.

Object stores show a file when it is complete. Some others (sftp, ftp) show it while it grows, and keep the torn piece
after a crash: readers must judge by what is in a file, never by its being there.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]

from resumable.store.layout import ATTEMPTS, PROBE
from resumable.store.storage import Entry, asked, checked, reported

T = TypeVar("T")

SINGLE_REQUEST_BYTES = 32 * 2**20
PIECE_BYTES = 16 * 2**20

# One for the whole program: two instances may be about the same place, and exists-then-write is two calls.
_creating = threading.Lock()


class FsspecStorage:
    """`Storage` below `root` of a filesystem that nothing else uses (its listing cache is turned off)."""

    def __init__(self, file_system: AbstractFileSystem, root: str, url: str) -> None:
        self._fs = file_system
        self._root = root.rstrip("/")
        self.url = url.rstrip("/")
        # Not an argument of the constructor: sftp hands all of those to the connection.
        with suppress(AttributeError):
            file_system.dircache.use_listings_cache = False

    @cached_property
    def exclusive(self) -> bool:
        """Found out by trying: servers that ignore the condition answer as if all were well."""
        if type(self._fs).pipe_file is AbstractFileSystem.pipe_file:
            return False  # asks, and then writes
        path = f"{ATTEMPTS}/{PROBE}{secrets.token_hex(8)}"
        try:
            with reported("write", self._shown(path), Exception):
                return self._refuses_second(path)
        finally:
            self.remove(path)

    def _refuses_second(self, path: str) -> bool:
        self._in_folder(path, lambda: self._fs.pipe_file(self._at(path), b"first", mode="create"))
        try:
            self._fs.pipe_file(self._at(path), b"second", mode="create")
        except FileExistsError:
            return True
        return False

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and (size := self.size(path)) > max_bytes:
            raise ValueError(f"{size} bytes, more than the {max_bytes} allowed")
        with reported("read", self._shown(path), Exception):
            return bytes(asked(lambda: self._fs.cat_file(self._at(path))))

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0) -> int:
        target = buffer.cast("B")
        end = min(offset + len(target), self.size(path))  # a range that starts at the end is an error to some
        for start in range(offset, end, PIECE_BYTES):
            stop = min(start + PIECE_BYTES, end)
            piece = self._read_range(path, start, stop)
            target[start - offset : start - offset + len(piece)] = piece
            if len(piece) < stop - start:
                return start - offset + len(piece)
        return max(end - offset, 0)

    def _read_range(self, path: str, start: int, stop: int) -> bytes:
        with reported("read", self._shown(path), Exception):
            piece: bytes = asked(lambda: self._fs.cat_file(self._at(path), start=start, end=stop))
        return piece[: stop - start]

    def size(self, path: str) -> int:
        self._fs.invalidate_cache(self._fs._parent(self._at(path)))
        with reported("look at", self._shown(path), Exception):
            found = asked(lambda: self._fs.info(self._at(path)))
        if found["type"] != "file":
            raise FileNotFoundError(f"{self._shown(path)} is not a file")
        return int(found["size"])

    def list(self, path: str) -> list[Entry]:
        folder = self._at(path)
        self._fs.invalidate_cache(folder)
        try:
            with reported("list", self._shown(path), Exception):
                children = asked(lambda: self._fs.ls(folder, detail=True))
        except FileNotFoundError:
            return []
        return sorted(set(_entries(children, folder)))

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        pieces = _pieces(chunks)
        head, head_bytes = [], 0
        with reported("write", self._shown(path), Exception):
            for piece in pieces:
                head.append(piece)
                head_bytes += len(piece)
                if head_bytes > SINGLE_REQUEST_BYTES:
                    self._stream(path, chain(head, pieces))
                    return
            self._in_folder(path, lambda: self._fs.pipe_file(self._at(path), b"".join(head)))

    def _stream(self, path: str, pieces: Iterator[memoryview]) -> None:
        file = self._in_folder(path, lambda: self._fs.open(self._at(path), "wb"))
        try:
            for piece in pieces:
                file.write(piece)
            file.close()
        except BaseException:
            _abandon(file)
            if not isinstance(file, AbstractBufferedFile):
                with suppress(Exception):
                    self._fs.rm_file(self._at(path))
            raise

    def create(self, path: str, data: bytes) -> None:
        with reported("write", self._shown(path), Exception):
            create = self._create_exclusively if self.exclusive else self._create_politely
            with _creating:
                create(path, data)

    def _create_exclusively(self, path: str, data: bytes) -> None:
        try:
            self._in_folder(path, lambda: self._fs.pipe_file(self._at(path), data, mode="create"))
        except FileExistsError:
            # A request whose answer was lost is repeated below us, and refused because of itself.
            if self.read(path) != data:
                raise

    def _create_politely(self, path: str, data: bytes) -> None:
        with suppress(FileNotFoundError):
            self.size(path)
            raise FileExistsError(f"{self._shown(path)} is there already")
        self.write(path, [data])
        if self.read(path) != data:
            raise FileExistsError(f"{self._shown(path)} was written by another program at the same time")

    def remove(self, path: str) -> None:
        with reported("remove", self._shown(path), Exception), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(path))

    def remove_dir(self, path: str) -> None:
        if self.list(path):  # some backends would remove what is in it
            return
        with suppress(OSError, NotImplementedError):
            self._fs.rmdir(self._at(path))

    def lock(self, path: str) -> Callable[[], None]:
        """There is none: here the newer attempt takes over."""
        checked(path)
        return lambda: None

    def _at(self, path: str) -> str:
        return f"{self._root}/{checked(path)}" if path else self._root

    def _shown(self, path: str) -> str:
        return f"{self.url}/{checked(path)}" if path else self.url

    def _in_folder(self, path: str, action: Callable[[], T]) -> T:
        """`action`, which writes `path`; once more with the folders made, where the backend has and wants them."""
        try:
            return action()
        except FileNotFoundError:
            self._make_folder(self._at(path).rpartition("/")[0])
            return action()

    def _make_folder(self, folder: str) -> None:
        parent = folder.rpartition("/")[0]
        if not parent.strip("/"):
            return  # a bucket, or a share: the user's to make
        try:
            self._fs.mkdir(folder, create_parents=False)
        except FileExistsError:
            pass
        except FileNotFoundError:
            self._make_folder(parent)
            self._fs.mkdir(folder, create_parents=False)


def _entries(children: Iterable[dict[str, Any]], folder: str) -> Iterator[Entry]:
    inside = folder.strip("/") + "/"
    for child in children:
        path = child["name"].strip("/")
        name = path.removeprefix(inside)
        # Stores without folders list a marker named like the folder itself, or a file that has its name.
        if path.startswith(inside) and name and "/" not in name:
            yield Entry(name, child["type"] == "directory")


def _pieces(chunks: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """The same bytes in pieces that a backend may copy without doubling the memory of the program."""
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


def _abandon(file: Any) -> None:
    """Leave a half-written file so that closing it, also when it is collected, does not publish what there is."""
    with suppress(Exception):
        file.discard()
    if isinstance(file, AbstractBufferedFile):
        file.closed = True
    else:
        with suppress(Exception):
            file.close()
