"""Run functions on plain threads: one over several items, or one job in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def thread_of(work: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a thread; return None if the interpreter is ending and starts none any more (Python 3.12)."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def in_lanes(action: Callable[[T], R], items: Sequence[T], lanes: int) -> list[R]:
    """Return the result of `action` for each item, in their order; run at most `lanes` calls at once.

    Blocks. After the first failure no further call begins; it is raised when the running calls have ended. With one
    lane the calling thread makes all calls.
    """
    if min(lanes, len(items)) < 2:
        return [action(item) for item in items]
    waiting: SimpleQueue[int] = SimpleQueue()
    for number in range(len(items)):
        waiting.put(number)
    results: dict[int, R] = {}
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            try:
                number = waiting.get_nowait()
                results[number] = action(items[number])
            except Empty:
                return
            except BaseException as failure:
                failures.append(failure)

    # No pool, and this thread if need be: while the interpreter ends, pools accept no work, and some start no thread.
    started = [thread for _ in range(min(lanes, len(items))) if (thread := thread_of(work, "resumable-lane"))]
    if not started:
        work()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(items))]


SIGNAL_SECONDS = 0.5


class Background:
    """One job at a time in a thread of its own. Its failure is kept until it is fetched; none is lost."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Return whether a job is in flight."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def idle(self) -> bool:
        """Return whether a job may be submitted: none is in flight, and no failure waits to be fetched."""
        return not self.busy and self._failure is None

    def submit(self, job: Callable[[], object]) -> None:
        """Start a job and return. `RuntimeError` if one is in flight, or the last one's failure was not fetched."""
        if not self.idle:
            raise RuntimeError("a job is in flight, or its failure was never fetched")
        # The job waits until its thread has started. Otherwise it may run first, and `submit` waits 5 ms for its turn.
        started = threading.Event()
        try:
            self._thread = thread_of(lambda: self._run(job, started), "resumable-writer")
        finally:
            started.set()
        if self._thread is None:
            self._run(job, started)

    def wait(self) -> None:
        """Block until no job is in flight.

        Signal handlers run meanwhile, with a delay of at most `SIGNAL_SECONDS`.
        """
        if self._thread is not None:
            while self._thread.is_alive():
                self._thread.join(SIGNAL_SECONDS)  # a signal just before a wait without end would not end it
            self._thread = None

    def failure(self) -> BaseException | None:
        """Fetch the exception of the last job, once; None while it is in flight. Does not block."""
        if self.busy:
            return None
        self._thread = None  # called at each boundary: testing an ended thread takes longer
        failure, self._failure = self._failure, None
        return failure

    def _run(self, job: Callable[[], object], started: threading.Event) -> None:
        started.wait()
        try:
            job()
        except BaseException as failure:
            self._failure = failure


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items; produce each one in another thread while the one before is used."""
    producer, produced = Background(), list[T]()

    def produce() -> None:
        produced[:] = islice(items, 1)

    try:
        producer.submit(produce)
        while item := _next_of(producer, produced):
            producer.submit(produce)
            yield item[0]
    finally:
        producer.wait()


def _next_of(producer: Background, produced: list[T]) -> list[T]:
    """Return the item in production, or none at the end; raise the failure to produce it."""
    producer.wait()
    failure = producer.failure()
    if failure is not None:
        raise failure
    return produced.copy()
