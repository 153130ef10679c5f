"""Does one thing to several items at once; knows nothing of what is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def thread_of(work: Callable[[], None], name: str) -> threading.Thread | None:
    """A thread that does this; None where the interpreter ends and starts none any more (Python 3.12)."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def in_lanes(action: Callable[[T], R], items: Sequence[T], lanes: int) -> list[R]:
    """What `action` gives for each item, in their order; at most `lanes` are in work at any instant.

    Blocks. The first failure is raised when those in work then have ended; no other is begun. With one lane all is
    done by the calling thread.
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

    # No pool, and this thread if need be: while the interpreter ends pools take nothing, and some start no thread.
    started = [thread for _ in range(min(lanes, len(items))) if (thread := thread_of(work, "resumable-lane"))]
    if not started:
        work()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(items))]
