"""A storage that is asked again while failing may pass; knows nothing of what is asked, nor of what it asks.

Delays grow exponentially with full jitter, so that many jobs that one outage hit do not come back at one instant
(M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from resumable.errors import StorageError
from resumable.events import duration, warn
from resumable.store.storage import Entry, Storage

T = TypeVar("T")

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 10.0

# Answers in the shape of a failure: asking again changes nothing.
_FINAL = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
_FINAL_CAUSES = (PermissionError, NotImplementedError)


class PatientStorage:
    """`Storage` that repeats what fails, until failing has taken `patience_seconds` in all since `renew`.

    What counts are the failed calls and the waits between them, not the calls that succeed: one budget bounds how long
    a whole save goes on against a storage that is gone, and a slow upload is no failure.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._sleep = sleep
        self._jitter = random.Random()  # of its own: the global stream is the training's
        self.url = inner.url
        self.patience_seconds = inner.patience_seconds
        self.locks = inner.locks
        self.renew()

    def renew(self) -> None:
        """Begin a new budget: a new save, a new start."""
        self._left_seconds = self.patience_seconds
        self._told = False

    @property
    def exclusive(self) -> bool:
        return self._patiently(lambda: self._inner.exclusive)

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        return self._patiently(lambda: self._inner.read(path, max_bytes=max_bytes))

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0) -> int:
        return self._patiently(lambda: self._inner.read_into(path, buffer, offset=offset))

    def size(self, path: str) -> int:
        return self._patiently(lambda: self._inner.size(path))

    def list(self, path: str) -> list[Entry]:
        return self._patiently(lambda: self._inner.list(path))

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if iter(chunks) is chunks:
            raise TypeError("chunks can be iterated only once, and a repeated write needs them again")
        self._patiently(lambda: self._inner.write(path, chunks))

    def create(self, path: str, data: bytes) -> None:
        self._patiently(lambda: self._inner.create(path, data))

    def remove(self, path: str) -> None:
        self._patiently(lambda: self._inner.remove(path))

    def remove_dir(self, path: str) -> None:
        self._patiently(lambda: self._inner.remove_dir(path))

    def free_bytes(self) -> int | None:
        return self._patiently(self._inner.free_bytes)

    def lock(self, path: str) -> Callable[[], None]:
        return self._inner.lock(path)

    def _tell(self, error: StorageError) -> None:
        """Once a budget: who waits must know for what."""
        if not self._told:
            self._told = True
            warn(f"{error.message}; asking again, for up to {duration(self.patience_seconds)} of failing")

    def _patiently(self, question: Callable[[], T]) -> T:
        tries = 0
        while True:
            started = self._clock()
            try:
                return question()
            except StorageError as error:
                if error.errno in _FINAL or isinstance(error.__cause__, _FINAL_CAUSES):
                    raise
                delay_seconds = self._jitter.uniform(0, min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**tries))
                self._left_seconds -= self._clock() - started + delay_seconds
                if self._left_seconds < 0:
                    raise
                self._tell(error)
            self._sleep(delay_seconds)
            tries += 1
