"""Storage in a folder of this machine, safe against power cuts; knows nothing of runs and checkpoints.

A file becomes visible whole and durable: temporary file beside it, write, fsync, rename, fsync of the folder. A folder
that was made is not durable before the folder that names it is synced, so that happens too, once per folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resumable.store.layout import TEMPORARY
from resumable.store.storage import Entry, asked, checked, reported, storage_error

PIECE_BYTES = 32 * 2**20

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_STILL_IN_USE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR)

# POSIX locks do not stop the program that holds them, so those held here are counted here. With the pid, because a
# forked child inherits this set but no lock.
_held: set[tuple[int, Path]] = set()
_held_guard = threading.Lock()


class LocalStorage:
    """`Storage` in `root`, which is made at the first write."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        self._durable: set[Path] = set()
        self.url = str(self._root)

    @property
    def exclusive(self) -> bool:
        return True

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        def attempt() -> bytes | int:
            with _opened(self._at(path)) as file:
                size = os.fstat(file).st_size
                if max_bytes is not None and size > max_bytes:
                    return size
                buffer = bytearray(size)
                return bytes(buffer[: _fill(file, memoryview(buffer), 0)])

        with reported("read", self._shown(path)):
            result = asked(attempt)
        if isinstance(result, int):
            raise ValueError(f"{result} bytes, more than the {max_bytes} allowed")
        return result

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0) -> int:
        def attempt() -> int:
            with _opened(self._at(path)) as file:
                return _fill(file, buffer.cast("B"), offset)

        with reported("read", self._shown(path)):
            return asked(attempt)

    def size(self, path: str) -> int:
        def attempt() -> int:
            return _regular(os.stat(self._at(path))).st_size

        with reported("look at", self._shown(path)):
            return asked(attempt)

    def list(self, path: str) -> list[Entry]:
        def attempt() -> list[Entry]:
            with os.scandir(self._at(path)) as children:
                return sorted(Entry(child.name, child.is_dir()) for child in children)

        try:
            with reported("list", self._shown(path)):
                return asked(attempt)
        except FileNotFoundError:
            return []

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        target = self._at(path)
        with self._placing(path) as temporary:
            _write_durably(temporary, chunks)
            os.replace(temporary, target)
            _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> None:
        target = self._at(path)
        with self._placing(path) as temporary:
            _write_durably(temporary, [data])
            _link(temporary, target, data)
            temporary.unlink()
            _sync_folder(target.parent)

    def remove(self, path: str) -> None:
        target = self._at(path)
        with reported("remove", self._shown(path)), suppress(FileNotFoundError):
            target.unlink()
            _sync_folder(target.parent)

    def remove_dir(self, path: str) -> None:
        folder = self._at(path)
        self._durable.discard(folder)
        with reported("remove", self._shown(path)):
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno not in _STILL_IN_USE:
                    raise

    def lock(self, path: str) -> Callable[[], None]:
        """Nothing else may ever open this file: closing any descriptor of it would release the lock."""
        target = self._at(path)
        with reported("lock", self._shown(path)):
            self._ensure_folder(target.parent)
            return _lock(target)

    def _at(self, path: str) -> Path:
        return self._root / checked(path) if path else self._root

    def _shown(self, path: str) -> str:
        return str(self._at(path))

    @contextmanager
    def _placing(self, path: str) -> Iterator[Path]:
        target = self._at(path)
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            with reported("write", self._shown(path)):
                self._ensure_folder(target.parent)
                yield temporary
        except FileNotFoundError as error:  # no answer here: somebody removed the folder under our hands
            raise storage_error("write", self._shown(path), error) from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _ensure_folder(self, folder: Path) -> None:
        if not _make_folder(folder, self._ensure_folder):
            # A launch that was killed may have made it without syncing its name, so being there is not enough.
            if folder in self._durable or not folder.is_relative_to(self._root):
                return
            if folder == self._root and not os.access(folder.parent, os.R_OK):
                return
        _sync_folder(folder.parent)
        self._durable.add(folder)


def _make_folder(folder: Path, ensure_parent: Callable[[Path], None]) -> bool:
    """Whether it had to be made."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except FileNotFoundError:
        ensure_parent(folder.parent)
        folder.mkdir(exist_ok=True)
    return True


def _write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            while rest:
                rest = rest[os.write(file, rest[:PIECE_BYTES]) :]
        os.fsync(file)
    finally:
        os.close(file)


def _link(temporary: Path, target: Path, data: bytes) -> None:
    """Give a finished file its name, unless the name is taken: `FileExistsError`."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # Over NFS a repeated request is refused because of the first, whose answer was lost.
        if os.stat(temporary).st_nlink != 2:
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _write_durably(target, [data])  # exclusive too, but not complete from the first moment


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # O_NONBLOCK: opening a FIFO that somebody put into a run must not wait for its other end.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _regular(os.fstat(file))
        yield file
    finally:
        os.close(file)


def _regular(found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return found


def _fill(file: int, buffer: memoryview, offset: int) -> int:
    done = 0
    while done < len(buffer):
        got = os.preadv(file, [buffer[done : done + PIECE_BYTES]], offset + done)
        if not got:
            break
        done += got
    return done


def _lock(path: Path) -> Callable[[], None]:
    mine = (os.getpid(), path.resolve())
    with _held_guard:
        if mine in _held:
            raise BlockingIOError(errno.EAGAIN, "this program holds the lock already")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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
