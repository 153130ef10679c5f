"""Storage in a folder of this machine, safe against power cuts. Independent of runs and checkpoints.

A file becomes visible atomically, whole and durable: temporary file beside it, write, fsync, rename, fsync of the
folder. A new folder is durable only once the folder that names it is synced, so that happens too, once per folder.
A file that is replaced keeps its permissions.

No symbolic link inside a run is followed (`dir_fd`). The root may be one, since the user named it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from resumable.store.storage import dir_fd
from resumable.store.storage.dir_fd import FOLDER_FLAGS, PathAt
from resumable.store.storage.direct_io import sync, write_durably
from resumable.store.storage.file_lock import lock_file
from resumable.store.storage.own_files import temporary_name
from resumable.store.storage.protocol import AppendedFile, Entry, Seen, checked, looked_up, reported, storage_error

_STILL_IN_USE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR)


class LocalStorage:
    """`Storage` in `root`, which is made at the first write."""

    patience_seconds = 3.0
    locks = True
    readers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    range_bytes = 2**20
    removed_at_once = 1
    caches_reads = True
    parallel = 1  # one direct write after the other keeps a disk busy, and kills can be repeated at the same call

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        self._durable: set[str] = set()
        self.url = str(self._root)

    @property
    def exclusive(self) -> bool:
        return True

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        with looked_up("read", self._shown(path)), self._path_at(path) as at, dir_fd.opened(at) as file:
            size = os.fstat(file).st_size
            if max_bytes is not None and size > max_bytes:
                raise ValueError(f"{size} bytes, more than the {max_bytes} allowed")
            buffer = bytearray(size)
            return bytes(buffer[: dir_fd.read_at(file, memoryview(buffer), 0)])

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        with looked_up("read", self._shown(path)), self._path_at(path) as at, dir_fd.opened(at) as file:
            return dir_fd.read_at(file, buffer.cast("B"), offset, seen)

    def size(self, path: str) -> int:
        with looked_up("look at", self._shown(path)), self._path_at(path) as at:
            return dir_fd.size_at(at)

    def drop_cache(self, path: str) -> None:
        if hasattr(os, "posix_fadvise"):  # macOS has none
            with suppress(OSError, ValueError), self._path_at(path) as at, dir_fd.opened(at) as file:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def list(self, path: str) -> list[Entry]:
        with (
            reported("list", self._shown(path)),
            suppress(FileNotFoundError, NotADirectoryError),
            self._folder(path) as folder,
        ):
            return dir_fd.list_folder(folder)
        return []

    def list_below(self, path: str) -> None:
        """Return None: each folder is listed by itself."""

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        with self._temporary(path) as (temporary, target):
            permissions = dir_fd.permissions_at(target)
            write_durably(temporary.name, chunks, folder=temporary.folder, permissions=permissions)
            dir_fd.replace(temporary, target)

    def link(self, source: str, target: str) -> bool:
        with looked_up("link", self._shown(source)), self._path_at(source) as old:
            dir_fd.size_at(old)
            with self._temporary(target) as (temporary, new):
                if not dir_fd.link(old, temporary):
                    return False
                with dir_fd.opened(temporary) as file:  # refuses what was exchanged for a symbolic link meanwhile
                    sync(file)  # some file systems keep the number of names with the file
                dir_fd.replace(temporary, new)
        return True

    def create(self, path: str, data: bytes) -> None:
        with self._temporary(path) as (temporary, target):
            write_durably(temporary.name, [data], folder=temporary.folder)
            try:
                if not dir_fd.link(temporary, target):
                    _create_unlinked(target, data)
            except FileExistsError:
                if not _holds(target, data):
                    raise
            dir_fd.unlink(temporary)
            dir_fd.sync_folder(target.folder)

    def append(self, path: str) -> AppendedFile:
        with reported("write", self._shown(path)):
            self._ensure_folder(path.rpartition("/")[0])
            with self._path_at(path) as at:
                return dir_fd.GrowingFile(at)

    def remove(self, path: str) -> None:
        with reported("remove", self._shown(path)), suppress(FileNotFoundError), self._path_at(path) as at:
            dir_fd.unlink(at)
            dir_fd.sync_folder(at.folder)

    def remove_all(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.remove(path)

    def remove_dir(self, path: str) -> None:
        self._durable.discard(path)
        with reported("remove", self._shown(path)):
            try:
                with self._path_at(path) as at:
                    os.rmdir(at.name, dir_fd=at.folder)
            except OSError as error:
                if error.errno not in _STILL_IN_USE:
                    raise

    def free_bytes(self) -> int | None:
        with reported("look at", str(self._root)):
            found = os.statvfs(next(folder for folder in (self._root, *self._root.parents) if folder.exists()))
        # Includes what is reserved for root, who may be writing: less than this is certainly too little. Some network
        # mounts count nothing.
        return found.f_bfree * found.f_frsize if found.f_blocks else None

    def lock(self, path: str) -> Callable[[], None]:
        """Lock a file that nothing else opens."""
        target = self._root / checked(path)
        with reported("lock", str(target)):
            self._ensure_folder(path.rpartition("/")[0])
            return lock_file(target)

    def _shown(self, path: str) -> str:
        return str(self._root / checked(path) if path else self._root)

    @contextmanager
    def _folder(self, path: str) -> Iterator[int]:
        """Open a folder of the run, for naming what is in it."""
        folder = os.open(self._root, FOLDER_FLAGS)
        try:
            for part in path.split("/") if path else ():
                inner = dir_fd.open_folder(PathAt(part, folder))
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _path_at(self, path: str) -> Iterator[PathAt]:
        above, _, name = checked(path).rpartition("/")
        with self._folder(above) as folder:
            yield PathAt(name, folder)

    @contextmanager
    def _temporary(self, path: str) -> Iterator[tuple[PathAt, PathAt]]:
        """Give a temporary file beside `path`, and `path`; remove the former if it is left at the end."""
        above = checked(path).rpartition("/")[0]
        try:
            with reported("write", self._shown(path)):
                self._ensure_folder(above)
                with self._path_at(path) as target:
                    temporary = PathAt(temporary_name(), target.folder)
                    try:
                        yield temporary, target
                    finally:
                        with suppress(OSError):
                            dir_fd.unlink(temporary)
        except FileNotFoundError as error:  # no answer here: another program removed the folder meanwhile
            self._durable.clear()
            raise storage_error("write", self._shown(path), error) from error

    def _ensure_folder(self, path: str) -> None:
        """Make a folder and those above it, and make their names durable, once.

        A killed launch may have made one without syncing its name, so it is synced also where it exists.
        """
        if path in self._durable:
            return
        if path:
            above, _, name = path.rpartition("/")
            self._ensure_folder(above)
            with self._folder(above) as folder:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                dir_fd.sync_folder(folder)
        else:
            with suppress(FileExistsError):
                self._root.mkdir(parents=True)
            _sync_names_of(self._root)
        self._durable.add(path)


def _sync_names_of(root: Path) -> None:
    """Make the name of the root and the names above it durable, within its file system and where we may read."""
    device = root.stat().st_dev
    for folder in root.parents:
        if folder.stat().st_dev != device:
            return
        with suppress(PermissionError):
            dir_fd.sync_folder(folder)


def _create_unlinked(target: PathAt, data: bytes) -> None:
    """Create a file without hard links: exclusively too, but readers may see a part of it."""
    try:
        write_durably(target.name, [data], folder=target.folder)
    except FileExistsError:
        raise
    except BaseException:
        with suppress(OSError):
            dir_fd.unlink(target)  # ours: it did not exist before
        raise


def _holds(path: PathAt, data: bytes) -> bool:
    with dir_fd.opened(path) as file:
        found = bytearray(len(data) + 1)
        return found[: dir_fd.read_at(file, memoryview(found), 0)] == data
