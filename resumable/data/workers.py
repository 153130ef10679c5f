"""How loader workers start, which signals they ignore, and how they end; knows nothing of batches."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader, get_worker_info


class CalmStart:
    """A `worker_init_fn` around the user's that lets the signals of a preemption pass by.

    A scheduler signals the whole group, but the step under way still needs its batches: workers leave when the main
    program lets go of them. Picklable where the user's function is.
    """

    def __init__(self, user: Callable[[int], None] | None, signals: tuple[int, ...]) -> None:
        self._user = user
        self._signals = signals

    def __call__(self, worker: int) -> None:
        _ignore(self._signals)
        if self._user is not None:
            self._user(worker)
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(
                1
            )  # torch's own watch, which begins now, sees only a parent that dies later; a spawn takes seconds


class WorkerStart(CalmStart):
    """The same for loaders of ours, whose dataset is a proxy: worker code sees the user's as `worker_info.dataset`."""

    def __call__(self, worker: int) -> None:
        told = get_worker_info()
        # The dataclass is frozen, hence the detour.
        object.__setattr__(told, "dataset", told.dataset.dataset)  # type: ignore[union-attr]
        super().__call__(worker)


@contextmanager
def calm_workers(loaders: Iterable[Any], signals: tuple[int, ...]) -> Iterator[None]:
    """While it lasts, workers that `loaders` start themselves let `signals` pass by."""
    calmed = [(loader, loader.worker_init_fn) for loader in loaders if signals and isinstance(loader, DataLoader)]
    for loader, user in calmed:
        loader.worker_init_fn = CalmStart(user, signals)
    try:
        yield
    finally:
        for loader, user in calmed:
            loader.worker_init_fn = user


def tell_worker_seed(number: int) -> None:
    """Make `worker_info.seed` agree with `torch.initial_seed()` in a worker; nothing in the main program."""
    told = get_worker_info()
    if told is not None:
        object.__setattr__(told, "seed", number)


@contextmanager
def signals_held(signals: tuple[int, ...]) -> Iterator[None]:
    """Block `signals` while workers start: they inherit the mask, so none can die before it ignores them."""
    if not signals or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers(loader: Any) -> None:
    """End the workers that a loader keeps for its next pass, if it has any."""
    if isinstance(loader, DataLoader) and loader._iterator is not None:
        end_iterator(loader._iterator)
        loader._iterator = None


def end_iterator(iterator: Any) -> None:
    """End the workers of one iterator now; waiting for the collector would leave them to a traceback's lifetime."""
    end = getattr(iterator, "_shutdown_workers", None)
    if end is not None:
        end()


def _ignore(signals: tuple[int, ...]) -> None:
    for number in signals:
        # terminate() is how a shutdown ends a worker that hangs: it comes after the preemption's own SIGTERM.
        signal.signal(number, _FirstIgnored() if number == signal.SIGTERM else signal.SIG_IGN)
    if signals and hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


class _FirstIgnored:
    def __init__(self) -> None:
        self._seen = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._seen:
            os._exit(128 + number)
        self._seen = True
