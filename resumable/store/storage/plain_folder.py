"""Files in a local folder where the platform has no folder descriptors and record locks (Windows): no run is written.

Everything is read there, and a file that the user names is replaced atomically: temporary file beside it, write, fsync,
rename. A run needs more: locks, exclusive creation, and names that are durable when a call returns.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from resumable.errors import ConfigError
from resumable.store.storage.own_files import temporary_name
from resumable.store.storage.protocol import Entry, Seen, checked, looked_up, reported

_STEP_BYTES = 2**20  # of one read, so that `seen` is called while the bytes are in the cache


class PlainFolder:
    """`Storage` in `root` for reading, and for replacing single files."""

    patience_seconds = 3.0
    locks = True
    readers = 1
    range_bytes = _STEP_BYTES
    caches_reads = True
    parallel = 1
    removed_at_once = 1

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        self.url = str(self._root)

    @property
    def exclusive(self) -> bool:
        return False

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        size = self.size(path)
        if max_bytes is not None and size > max_bytes:
            raise ValueError(f"{size} bytes, more than the {max_bytes} allowed")
        buffer = bytearray(size)
        return bytes(buffer[: self.read_into(path, memoryview(buffer))])

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        target, done = buffer.cast("B"), 0
        with looked_up("read", self._shown(path)), self._opened(path) as file:
            file.seek(offset)
            while got := file.readinto(target[done : done + _STEP_BYTES]):
                if seen:
                    seen(target[done : done + got], offset + done)
                done += got
        return done

    def size(self, path: str) -> int:
        with looked_up("look at", self._shown(path)), self._opened(path) as file:
            return os.fstat(file.fileno()).st_size

    def drop_cache(self, path: str) -> None:
        pass

    def list(self, path: str) -> list[Entry]:
        with (
            reported("list", self._shown(path)),
            suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(self._path(path)) as children,
        ):
            return sorted(_entry(child) for child in children)
        return []

    def list_below(self, path: str) -> None:
        """Return None: each folder is listed by itself."""

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        with reported("write", self._shown(path)):
            target = self._path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(temporary_name())
            try:
                with temporary.open("xb") as file:
                    if target.exists():
                        shutil.copymode(target, temporary)
                    file.writelines(chunks)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

    def link(self, source: str, target: str) -> bool:
        checked(source), checked(target)
        return False

    def create(self, path: str, data: bytes) -> None:
        raise self._refused()

    def append(self, path: str) -> None:
        raise self._refused()

    def remove(self, path: str) -> None:
        raise self._refused()

    def remove_all(self, paths: Sequence[str]) -> None:
        raise self._refused()

    def remove_dir(self, path: str) -> None:
        raise self._refused()

    def free_bytes(self) -> int | None:
        with reported("look at", self.url):
            return shutil.disk_usage(next(each for each in (self._root, *self._root.parents) if each.exists())).free

    def lock(self, path: str) -> Callable[[], None]:
        """Refuse: a run begins with its lock, so nothing is written before."""
        raise self._refused()

    def _refused(self) -> ConfigError:
        return ConfigError(
            f"{self.url}: expected a remote storage, found a local folder: on this platform none is written as a run",
            "name one in `run`, such as s3://bucket/run, or train where Python has POSIX locks: Linux, macOS, WSL",
        )

    def _shown(self, path: str) -> str:
        return str(self._root / checked(path) if path else self._root)

    def _path(self, path: str) -> Path:
        """Return the path on this machine; `OSError` with ELOOP if a name in it is a symbolic link."""
        found = self._root
        for name in checked(path).split("/") if path else ():
            found = found / name
            if found.is_symlink():
                raise OSError(errno.ELOOP, f"{name} is a symbolic link")
        return found

    @contextmanager
    def _opened(self, path: str) -> Iterator[FileIO]:
        found = self._path(path)
        if found.exists() and not found.is_file():
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        with found.open("rb", buffering=0) as file:
            yield file


def _entry(child: os.DirEntry[str]) -> Entry:
    # A link to a folder is listed as a folder: opening it is an error, and it is not taken for an empty place.
    is_dir = child.is_dir() or child.is_symlink()
    return Entry(child.name, is_dir, child.stat().st_size if child.is_file(follow_symlinks=False) else None)
