"""Does one thing to several items at once; knows nothing of what is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


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

    # No pool: a save may go on while the interpreter ends, when pools take nothing any more.
    threads = [threading.Thread(target=work, name="resumable-lane", daemon=True) for _ in range(min(lanes, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(items))]
