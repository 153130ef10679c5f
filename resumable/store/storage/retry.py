"""Retry the calls of a storage with exponential backoff and full jitter. Independent of the storage and its content.

The jitter keeps many jobs that one outage hit from coming back at one instant (M. Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from resumable.errors import ConfigError, StorageError
from resumable.store.storage.protocol import AppendedFile, Entry, Seen, Storage
from resumable.utils.events import duration, warn

T = TypeVar("T")

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 10.0

# Errors that a retry does not change.
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
    """The time during which calls failed: a second in which several calls failed at once counts once.

    Otherwise a save that writes eight files side by side would give up after an eighth of an outage. The result is the
    time that the calls cover, in any order, not their sum.
    """

    def __init__(self) -> None:
        self._covered: list[tuple[float, float]] = []

    def cover(self, start: float, stop: float) -> None:
        """Add the time from `start` to `stop`, in which a call failed or waited for its retry."""
        apart = [span for span in self._covered if span[1] < start or stop < span[0]]
        touching = [span for span in self._covered if span not in apart]
        for low, high in touching:
            start, stop = min(start, low), max(stop, high)
        self._covered = [*apart, (start, stop)]

    @property
    def seconds(self) -> float:
        """Return the time in all."""
        return sum(stop - start for start, stop in self._covered)


class PatientStorage:
    """`Storage` that retries failed calls, for `patience_seconds` of failing in all since `renew`.

    Failed calls and the waits between them count, calls that succeed do not. So one budget bounds how long a whole save
    goes on against a lost storage, and a slow upload is no failure. Any number of threads may call at once, and share
    the budget. A `TypeError` or `ValueError` before the first success becomes a `ConfigError` at once: it is a mistake
    in the URL or the options, which no retry mends.
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
        self.removed_at_once = inner.removed_at_once
        self.caches_reads = inner.caches_reads
        self.renew()

    def renew(self) -> None:
        """Begin a new budget, for a new save or a new start."""
        with self._lock:
            self._outages = Outages()
            self._reported = False

    @property
    def impatient(self) -> Storage:
        """Return the same storage without retries, for what may fail, and must not use up the budget."""
        return self._inner

    @property
    def exclusive(self) -> bool:
        return self._retried(lambda: self._inner.exclusive)

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        return self._retried(lambda: self._inner.read(path, max_bytes=max_bytes))

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        return self._retried(lambda: self._inner.read_into(path, buffer, offset=offset, seen=seen))

    def size(self, path: str) -> int:
        return self._retried(lambda: self._inner.size(path))

    def drop_cache(self, path: str) -> None:
        self._inner.drop_cache(path)

    def list(self, path: str) -> list[Entry]:
        return self._retried(lambda: self._inner.list(path))

    def list_below(self, path: str) -> Mapping[str, Sequence[Entry]] | None:
        return self._retried(lambda: self._inner.list_below(path))

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if iter(chunks) is chunks:
            raise TypeError("chunks: expected an iterable that can be iterated again for a retry, found an iterator")
        self._retried(lambda: self._inner.write(path, chunks))

    def link(self, source: str, target: str) -> bool:
        return self._retried(lambda: self._inner.link(source, target))

    def create(self, path: str, data: bytes) -> None:
        self._retried(lambda: self._inner.create(path, data))

    def append(self, path: str) -> AppendedFile | None:
        return self._retried(lambda: self._inner.append(path))

    def remove(self, path: str) -> None:
        self._retried(lambda: self._inner.remove(path))

    def remove_all(self, paths: Sequence[str]) -> None:
        self._retried(lambda: self._inner.remove_all(paths))

    def remove_dir(self, path: str) -> None:
        self._retried(lambda: self._inner.remove_dir(path))

    def free_bytes(self) -> int | None:
        return self._retried(self._inner.free_bytes)

    def lock(self, path: str) -> Callable[[], None]:
        return self._inner.lock(path)

    def _retried(self, call: Callable[[], T]) -> T:
        tries = 0
        while True:
            started = self._clock()
            try:
                answer = call()
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
                self._report(error)
            self._sleep(delay_seconds)
            tries += 1

    def _may_wait(self, started: float, until: float) -> bool:
        """Return whether the budget covers the failure since `started` and a wait `until` then."""
        with self._lock:
            self._outages.cover(started, until)
            return self._outages.seconds <= self.patience_seconds

    def _report(self, error: StorageError) -> None:
        """Log the first failure of a budget, which explains the wait."""
        with self._lock:
            reported, self._reported = self._reported, True
        if not reported:
            warn(f"{error.message}; retrying, for up to {duration(self.patience_seconds)} of failing")
