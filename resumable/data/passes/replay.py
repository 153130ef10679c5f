"""Passes over everything that has no address: loaders with an `__iter__` of their own, and any iterable.

They are replayed from the start. Each item is made under streams keyed by its number in the pass. Independent of what
an item is.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset

from resumable.data.pass_base import Opening, Pass, PassPosition, Skipping, length_of
from resumable.data.passes.handed_out import HandedOut, marks_in
from resumable.data.rng.find_generators import find_generators
from resumable.data.rng.streams import PrivateStreams, saved_streams, seed_streams
from resumable.data.workers import calm_workers, end_workers
from resumable.errors import ChangedDataError, LoopError
from resumable.prepared.loaders import prepared_loader

# Iterating over these makes nothing and runs no code of the program: skipping in them is exact, and costs nothing.
HELD = (range, list, tuple, dict, collections.deque, np.ndarray, torch.Tensor)


T = TypeVar("T")


class ReplayPass(Pass[T]):
    """One pass over an iterable; opening it on a resume makes and discards the items that were consumed."""

    def __init__(self, loader: Iterable[T], opening: Opening) -> None:
        super().__init__(opening.address)
        self.length = length_of(loader)
        self._opening = opening
        self._loader = loader
        self._workers = workers_of(loader)
        check_workers(opening, self._workers)
        self._handed = HandedOut(
            opening.address, loader, type_of(loader), marks_in(opening.resume), tolerate=opening.tolerate
        )
        prepared = vars(loader).get("base_dataloader") if hasattr(loader, "__dict__") else None
        self._loaders: tuple[object, object] = (loader, prepared)  # of Accelerate, or None
        for one in self._loaders:
            # Persistent workers carry their streams from pass to pass; after a crash there would be fresh ones.
            end_workers(one)
        # Private generators continue from item to item, as a replay does; separate from the loop's own use of them.
        self._streams = PrivateStreams(opening.key, find_generators(loader, rule=opening.generator_rule))
        self._streams.leave_main_alone()
        with self._streams, saved_streams(), calm_workers(self._loaders, opening.signals):
            seed_streams(opening.key)
            self._items: Iterator[T] = iter(loader)
        if type(loader) in HELD:
            for item in itertools.islice(self._items, opening.batches_done):
                self._handed.add(item)
            if self._handed.count < opening.batches_done:
                raise too_few(opening, type_of(loader), self._handed.count)
        else:
            replay(self, opening, type_of(loader), faster_hint(loader))

    def _fetch(self) -> T:
        with self._streams, saved_streams(), calm_workers(self._loaders, self._opening.signals):
            seed_streams(self._opening.batch_key(self._handed.count))
            item = next(self._items)
        self._handed.add(item)
        return item

    def _position(self) -> PassPosition:
        position = {"kind": "replay", "batches": self._handed.count, "workers": self._workers}
        return position | self._handed.position()

    def _release(self) -> None:
        close = getattr(self._items, "close", None)
        if callable(close) and self._items is not self._loader:
            close()
        self._items = iter(())


def replay(this: Pass[object], opening: Opening, what: str, hint: str | None) -> None:
    """Consume as many batches as before the checkpoint; `LoopError` if fewer come. A hint is logged, with progress."""
    wanted = opening.batches_done
    if not wanted:
        return
    this.replayed = True
    if hint is not None:
        opening.warn(f"{opening.address}: {what} is replayed from its start, {wanted} batches are made again; {hint}")
    quiet: Skipping = lambda _, __: contextlib.nullcontext(lambda count: None)  # noqa: E731
    with (quiet if hint is None else opening.skipping)(f"replaying {opening.address}", wanted) as advance:
        for done in range(wanted):
            try:
                next(this)
            except StopIteration:
                raise too_few(opening, what, done) from None
            advance(1)


def too_few(opening: Opening, what: str, done: int) -> ChangedDataError:
    """Return the error for data that ended before the position of the checkpoint."""
    return ChangedDataError(
        f"{opening.address}: {what} yielded {done} batches on resume, {opening.batches_done} were consumed before the "
        "checkpoint",
        "the data changed, or it can be iterated only once (a generator object): pass something that "
        "starts again with every pass, such as a list or an object with __iter__",
    )


def check_workers(opening: Opening, workers: int) -> None:
    """Raise `LoopError` where a replay would be divided among another number of workers."""
    before = opening.resume["workers"] if opening.resume else workers
    if before != workers:
        raise LoopError(
            f"{opening.address}: num_workers is {workers}, it was {before} when the checkpoint was written",
            "data that is replayed depends on the number of workers: set it back, or start another run",
        )


def workers_of(loader: object) -> int:
    """Return `num_workers` of anything that has one, else 0."""
    workers = getattr(loader, "num_workers", 0)
    return workers if isinstance(workers, int) else 0


def type_of(loader: object) -> str:
    """Return the name of the real type: some wrappers fake their `__class__`."""
    return type(loader).__qualname__


def faster_hint(loader: object) -> str:
    """Return how to make this loader resume without a replay."""
    prepared = prepared_loader(loader)
    if prepared is not None and not isinstance(prepared.plain.dataset, IterableDataset):
        return "this run began with an earlier version, which read the loader in this way; a new run is fast"
    if prepared is not None or hasattr(loader, "base_dataloader"):
        return "fast instead: a map-style dataset, without dispatch_batches"
    if hasattr(loader, "dataset"):
        return f"fast instead: a DataLoader without the __iter__ of {type_of(loader)}"
    return "fast instead: a DataLoader over a map-style dataset"
