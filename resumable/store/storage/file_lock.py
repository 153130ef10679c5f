"""Lock a file against every other program of this machine, and against this one. Independent of runs."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

# POSIX locks do not stop the program that holds them, so those of this program are recorded here. With the pid, since
# a forked child inherits this set but no lock.
_held: set[tuple[int, Path]] = set()
_held_guard = threading.Lock()


def lock_file(path: Path) -> Callable[[], None]:
    """Lock a file, which is made if need be; return the function that releases the lock.

    The lock ends with the program at the latest. On a file system without locks this does nothing. No other code may
    open the file: closing any descriptor of it would release the lock.

    Raises:
        BlockingIOError: Another program, or this one, holds the lock.
    """
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
