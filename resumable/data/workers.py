"""Start loader workers, make them ignore preemption signals, and shut them down. Independent of batches."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from torch.utils.data import DataLoader, get_worker_info


class CalmStart:
    """A `worker_init_fn` around the user's that makes the worker ignore the signals of a preemption.

    A scheduler signals the whole group, but the current step still needs its batches: the main program shuts its
    workers down. Picklable where the user's function is.
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
            # torch's own watchdog, which starts now, sees only a parent that dies later; a spawn takes seconds.
            os._exit(1)


class WorkerStart(CalmStart):
    """The same for loaders of ours, whose dataset is a proxy: worker code sees the user's as `worker_info.dataset`."""

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        # The dataclass is frozen, hence the detour.
        object.__setattr__(info, "dataset", info.dataset.dataset)  # type: ignore[union-attr]
        super().__call__(worker)


@contextmanager
def calm_workers(loaders: Iterable[object], signals: tuple[int, ...]) -> Iterator[None]:
    """Make the workers that `loaders` start themselves inside this context ignore `signals`."""
    calmed = [(loader, loader.worker_init_fn) for loader in loaders if signals and isinstance(loader, DataLoader)]
    for loader, user in calmed:
        loader.worker_init_fn = CalmStart(user, signals)
    try:
        yield
    finally:
        for loader, user in calmed:
            loader.worker_init_fn = user


def set_worker_seed(number: int) -> None:
    """Set `worker_info.seed` to `torch.initial_seed()` in a worker; no-op in the main program."""
    info = get_worker_info()
    if info is not None:
        object.__setattr__(info, "seed", number)


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


def end_workers(loader: object) -> None:
    """Shut down the workers that a loader keeps for its next pass, if it has any."""
    if isinstance(loader, DataLoader) and loader._iterator is not None:
        end_iterator(loader._iterator)
        loader._iterator = None


def end_iterator(iterator: object) -> None:
    """Shut down the workers of one iterator now: until collected, it may live as long as a traceback."""
    end = getattr(iterator, "_shutdown_workers", None)
    if end is not None:
        end()


def _ignore(signals: tuple[int, ...]) -> None:
    for number in signals:
        # A shutdown terminates a worker that hangs by a second SIGTERM, after that of the preemption.
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
