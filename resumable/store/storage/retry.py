"""A storage that is asked again while failing may pass; knows nothing of what is asked, nor of what it asks.

Delays grow exponentially with full jitter, so that many jobs that one outage hit do not come back at one instant
(M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from resumable.errors import ConfigError, StorageError
from resumable.store.storage.protocol import Entry, Seen, Storage
from resumable.utils.events import duration, warn

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


class Outages:
    """How long there was failing, as time on a clock: seconds in which several calls failed at once count once.

    Otherwise a save that writes eight files side by side would give up after an eighth of an outage. Not the calls are
    summed up but what they cover, in whatever order they end.
    """

    def __init__(self) -> None:
        self._covered: list[tuple[float, float]] = []

    def cover(self, start: float, stop: float) -> None:
        """From `start` to `stop` a call failed, or waited to be made again."""
        apart = [span for span in self._covered if span[1] < start or stop < span[0]]
        touching = [span for span in self._covered if span not in apart]
        for low, high in touching:
            start, stop = min(start, low), max(stop, high)
        self._covered = [*apart, (start, stop)]

    @property
    def seconds(self) -> float:
        """In all."""
        return sum(stop - start for start, stop in self._covered)


class PatientStorage:
    """`Storage` that repeats what fails, until failing has taken `patience_seconds` in all since `renew`.

    What counts are the failed calls and the waits between them, not the calls that succeed: one budget bounds how long
    a whole save goes on against a storage that is gone, and a slow upload is no failure. Any number of threads may call
    at once, and share the budget. What a client that never answered makes a `TypeError` or `ValueError` of is a
    `ConfigError` at once: it is a mistake in the URL or the options, which no waiting mends.
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
        self._lock = threading.Lock()
        self._answered = False
        self.url = inner.url
        self.patience_seconds = inner.patience_seconds
        self.locks = inner.locks
        self.parallel = inner.parallel
        self.readers = inner.readers
        self.range_bytes = inner.range_bytes
        self.renew()

    def renew(self) -> None:
        """Begin a new budget: a new save, a new start."""
        with self._lock:
            self._outages = Outages()
            self._told = False

    @property
    def exclusive(self) -> bool:
        return self._patiently(lambda: self._inner.exclusive)

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        return self._patiently(lambda: self._inner.read(path, max_bytes=max_bytes))

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        return self._patiently(lambda: self._inner.read_into(path, buffer, offset=offset, seen=seen))

    def size(self, path: str) -> int:
        return self._patiently(lambda: self._inner.size(path))

    def drop_cache(self, path: str) -> None:
        self._inner.drop_cache(path)

    def list(self, path: str) -> list[Entry]:
        return self._patiently(lambda: self._inner.list(path))

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if iter(chunks) is chunks:
            raise TypeError("chunks can be iterated only once, and a repeated write needs them again")
        self._patiently(lambda: self._inner.write(path, chunks))

    def link(self, source: str, target: str) -> bool:
        return self._patiently(lambda: self._inner.link(source, target))

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

    def _patiently(self, question: Callable[[], T]) -> T:
        tries = 0
        while True:
            started = self._clock()
            try:
                answer = question()
                self._answered = True
                return answer
            except StorageError as error:
                if error.misused and not self._answered:
                    raise ConfigError(error.message, "check the URL and `storage_options`") from error.__cause__
                if error.errno in _FINAL or isinstance(error.__cause__, _FINAL_CAUSES):
                    raise
                delay_seconds = self._jitter.uniform(0, min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**tries))
                if not self._may_wait(started, self._clock() + delay_seconds):
                    raise
                self._tell(error)
            self._sleep(delay_seconds)
            tries += 1

    def _may_wait(self, started: float, until: float) -> bool:
        """Whether the budget allows for what failed since `started`, and for waiting `until` then."""
        with self._lock:
            self._outages.cover(started, until)
            return self._outages.seconds <= self.patience_seconds

    def _tell(self, error: StorageError) -> None:
        """Once a budget: who waits must know for what."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            warn(f"{error.message}; asking again, for up to {duration(self.patience_seconds)} of failing")
