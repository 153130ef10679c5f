"""Storage in a folder of this machine, safe against power cuts; knows nothing of runs and checkpoints.

A file becomes visible whole and durable: temporary file beside it, write, fsync, rename, fsync of the folder. A folder
that was made is not durable before the folder that names it is synced, so that happens too, once per folder.

The bytes of a run may come from anybody, so no symbolic link inside it is ever followed: every path is walked by
descriptors, from the root on (which may be a link: the user named it).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from resumable.store.storage.direct_io import SYSCALL_BYTES, write_durably
from resumable.store.storage.own_files import temporary_name
from resumable.store.storage.protocol import Entry, Seen, checked, looked_up, reported, storage_error

SEEN_BYTES = 512 * 2**10  # as much as stays in the fastest of the large caches until it is looked at

# To pass through a folder needs no right to list it.
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_STILL_IN_USE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR)

# POSIX locks do not stop the program that holds them, so those held here are counted here. With the pid, because a
# forked child inherits this set but no lock.
_held: set[tuple[int, Path]] = set()
_held_guard = threading.Lock()


class Place(NamedTuple):
    """A name in an open folder."""

    name: str
    folder: int


class LocalStorage:
    """`Storage` in `root`, which is made at the first write."""

    patience_seconds = 3.0
    locks = True
    readers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    range_bytes = 2**20
    parallel = 1  # one direct write after the other keeps a disk busy, and kills can be repeated at the same call

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        self._durable: set[str] = set()
        self.url = str(self._root)

    @property
    def exclusive(self) -> bool:
        return True

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        with looked_up("read", self._shown(path)), self._place(path) as place, _opened(place) as file:
            size = os.fstat(file).st_size
            if max_bytes is not None and size > max_bytes:
                raise ValueError(f"{size} bytes, more than the {max_bytes} allowed")
            buffer = bytearray(size)
            return bytes(buffer[: _fill(file, memoryview(buffer), 0)])

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        with looked_up("read", self._shown(path)), self._place(path) as place, _opened(place) as file:
            return _fill(file, buffer.cast("B"), offset, seen)

    def size(self, path: str) -> int:
        with looked_up("look at", self._shown(path)), self._place(path) as place:
            return _regular(os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)).st_size

    def drop_cache(self, path: str) -> None:
        if hasattr(os, "posix_fadvise"):  # macOS has none
            with suppress(OSError, ValueError), self._place(path) as place, _opened(place) as file:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def list(self, path: str) -> list[Entry]:
        with (
            reported("list", self._shown(path)),
            suppress(FileNotFoundError, NotADirectoryError),
            self._folder(path) as folder,
            _listable(folder) as opened,
            os.scandir(opened) as children,
        ):
            return sorted(_entries(children))
        return []

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        with self._placing(path) as (temporary, target):
            write_durably(temporary.name, chunks, folder=temporary.folder)
            _rename(temporary, target)

    def link(self, source: str, target: str) -> bool:
        with looked_up("link", self._shown(source)), self._place(source) as old:
            _regular(os.stat(old.name, dir_fd=old.folder, follow_symlinks=False))
            with self._placing(target) as (temporary, new):
                if not _link(old, temporary):
                    return False
                with _opened(temporary) as file:  # once more no link, whatever took its place meanwhile
                    os.fsync(file)  # some file systems keep how many names there are with the file
                _rename(temporary, new)
        return True

    def create(self, path: str, data: bytes) -> None:
        with self._placing(path) as (temporary, target):
            write_durably(temporary.name, [data], folder=temporary.folder)
            try:
                if not _link(temporary, target):
                    _create_unlinked(target, data)
            except FileExistsError:
                if not _holds(target, data):
                    raise
            _unlink(temporary)
            _sync_folder(target.folder)

    def remove(self, path: str) -> None:
        with reported("remove", self._shown(path)), suppress(FileNotFoundError), self._place(path) as place:
            _unlink(place)
            _sync_folder(place.folder)

    def remove_dir(self, path: str) -> None:
        self._durable.discard(path)
        with reported("remove", self._shown(path)):
            try:
                with self._place(path) as place:
                    os.rmdir(place.name, dir_fd=place.folder)
            except OSError as error:
                if error.errno not in _STILL_IN_USE:
                    raise

    def free_bytes(self) -> int | None:
        with reported("look at", str(self._root)):
            found = os.statvfs(next(folder for folder in (self._root, *self._root.parents) if folder.exists()))
        # With what is reserved for root, who may be writing: less than this is certainly too little. Some network
        # mounts count nothing.
        return found.f_bfree * found.f_frsize if found.f_blocks else None

    def lock(self, path: str) -> Callable[[], None]:
        """Nothing else may ever open this file: closing any descriptor of it would release the lock."""
        target = self._root / checked(path)
        with reported("lock", str(target)):
            self._ensure_folder(path.rpartition("/")[0])
            return _lock(target)

    def _shown(self, path: str) -> str:
        return str(self._root / checked(path) if path else self._root)

    @contextmanager
    def _folder(self, path: str) -> Iterator[int]:
        """A descriptor of a folder of the run, for naming what is in it."""
        folder = os.open(self._root, _FOLDER)
        try:
            for part in path.split("/") if path else ():
                inner = _open_inside(Place(part, folder))
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _place(self, path: str) -> Iterator[Place]:
        above, _, name = checked(path).rpartition("/")
        with self._folder(above) as folder:
            yield Place(name, folder)

    @contextmanager
    def _placing(self, path: str) -> Iterator[tuple[Place, Place]]:
        """Where to write and where it belongs; what is left under the first name goes away."""
        above = checked(path).rpartition("/")[0]
        try:
            with reported("write", self._shown(path)):
                self._ensure_folder(above)
                with self._place(path) as target:
                    temporary = Place(temporary_name(), target.folder)
                    try:
                        yield temporary, target
                    finally:
                        with suppress(OSError):
                            _unlink(temporary)
        except FileNotFoundError as error:  # no answer here: somebody removed the folder under our hands
            self._durable.clear()
            raise storage_error("write", self._shown(path), error) from error

    def _ensure_folder(self, path: str) -> None:
        """Make a folder and those above it, and make their names durable, once.

        A launch that was killed may have made one without syncing its name, so being there is not enough.
        """
        if path in self._durable:
            return
        if path:
            above, _, name = path.rpartition("/")
            self._ensure_folder(above)
            with self._folder(above) as folder:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                _sync_folder(folder)
        else:
            with suppress(FileExistsError):
                self._root.mkdir(parents=True)
            _sync_names_of(self._root)
        self._durable.add(path)


def _sync_names_of(root: Path) -> None:
    """Make the name of the root durable, and the names above it, as far as its file system goes and we may read."""
    device = root.stat().st_dev
    for folder in root.parents:
        if folder.stat().st_dev != device:
            return
        with suppress(PermissionError):
            _sync_folder(folder)


def _open_inside(place: Place) -> int:
    try:
        return os.open(place.name, _FOLDER | os.O_NOFOLLOW, dir_fd=place.folder)
    except NotADirectoryError as error:
        if stat.S_ISLNK(os.stat(place.name, dir_fd=place.folder, follow_symlinks=False).st_mode):
            raise _is_a_link(place.name) from error
        raise


def _is_a_link(name: str) -> OSError:
    return OSError(errno.ELOOP, f"{name} is a symbolic link")


def _rename(temporary: Place, target: Place) -> None:
    os.replace(temporary.name, target.name, src_dir_fd=target.folder, dst_dir_fd=target.folder)
    _sync_folder(target.folder)


def _link(source: Place, target: Place) -> bool:
    """A second name for a file; False where there are none, `FileExistsError` if it is taken."""
    try:
        os.link(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _create_unlinked(target: Place, data: bytes) -> None:
    """Exclusive too, but not complete from the first moment."""
    try:
        write_durably(target.name, [data], folder=target.folder)
    except FileExistsError:
        raise
    except BaseException:
        with suppress(OSError):
            _unlink(target)  # ours: it was not there before
        raise


def _holds(place: Place, data: bytes) -> bool:
    with _opened(place) as file:
        found = bytearray(len(data) + 1)
        return found[: _fill(file, memoryview(found), 0)] == data


def _unlink(place: Place) -> None:
    os.unlink(place.name, dir_fd=place.folder)


def _sync_folder(folder: int | Path) -> None:
    with _listable(folder) as file:
        os.fsync(file)


@contextmanager
def _listable(folder: int | Path) -> Iterator[int]:
    """A folder opened for reading: one that was opened to pass through can neither be listed nor synced."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    file = os.open(".", flags, dir_fd=folder) if isinstance(folder, int) else os.open(folder, flags)
    try:
        yield file
    finally:
        os.close(file)


def _entries(children: Iterable[os.DirEntry[str]]) -> Iterator[Entry]:
    for child in children:
        # A link to a folder is shown as one, so that whoever opens it is told, and does not take it for nothing.
        is_dir, size = child.is_dir() or child.is_symlink(), None
        if child.is_file(follow_symlinks=False):
            try:
                size = child.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue  # removed meanwhile
        yield Entry(child.name, is_dir, size)


@contextmanager
def _opened(place: Place) -> Iterator[int]:
    # O_NONBLOCK: opening a FIFO that somebody put into a run must not wait for its other end.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    file = os.open(place.name, flags, dir_fd=place.folder)
    try:
        _regular(os.fstat(file))
        yield file
    finally:
        os.close(file)


def _regular(found: os.stat_result) -> os.stat_result:
    if stat.S_ISLNK(found.st_mode):
        raise _is_a_link("it")
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return found


def _fill(file: int, buffer: memoryview, offset: int, seen: Seen | None = None) -> int:
    done, step = 0, SEEN_BYTES if seen else SYSCALL_BYTES
    while done < len(buffer):
        got = os.preadv(file, [buffer[done : done + step]], offset + done)
        if not got:
            break
        if seen:
            seen(buffer[done : done + got], offset + done)
        done += got
    return done


def _lock(path: Path) -> Callable[[], None]:
    mine = (os.getpid(), path.resolve())
    with _held_guard:
        if mine in _held:
            raise BlockingIOError(errno.EAGAIN, "this program holds the lock already")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(errno.EAGAIN, "another program holds the lock") from error
            if error.errno in _NO_LOCKS:
                return lambda: None
            raise
        _held.add(mine)

    def release() -> None:
        with _held_guard:
            if mine in _held:
                _held.discard(mine)
                os.close(file)

    return release
