"""Everything that has no address: loaders with an `__iter__` of their own, and any iterable, replayed from the start.

Knows nothing of what an item is. Each item is made under streams keyed by its place in the pass.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from resumable.data import accelerate_accumulation
from resumable.data.pass_base import Opening, Pass, length_of
from resumable.data.rng.find_generators import find_generators
from resumable.data.rng.streams import PrivateStreams, saved_streams, seed_streams
from resumable.data.workers import calm_workers, end_workers
from resumable.errors import LoopError

# Iterating over these makes nothing and runs no code of the program: to go on in them is exact, and costs nothing.
HELD = (range, list, tuple, dict, collections.deque, np.ndarray, torch.Tensor)


class ReplayPass(Pass):
    """One pass over an iterable; opening it on a resume makes and discards what was consumed."""

    def __init__(self, loader: Any, opening: Opening) -> None:
        super().__init__(opening.address)
        self.length = length_of(loader)
        self._opening = opening
        self._loader = loader
        self._workers = workers_of(loader)
        check_workers(opening, self._workers)
        self._count = 0
        self._loaders = [loader, vars(loader).get("base_dataloader")] if hasattr(loader, "__dict__") else [loader]
        for one in self._loaders:
            # Persistent workers carry their streams from pass to pass; after a crash there would be fresh ones.
            end_workers(one)
        # Private generators go on from item to item, as replaying does; beside the loop's own use of them.
        self._streams = PrivateStreams(opening.key, find_generators(loader, rule=opening.generator_rule))
        self._streams.leave_main_alone()
        with self._streams, saved_streams(), calm_workers(self._loaders, opening.signals):
            seed_streams(opening.key)
            self._items: Iterator[Any] = iter(loader)
        if type(loader) in HELD:
            self._count = sum(1 for _ in itertools.islice(self._items, opening.batches_done))
            if self._count < opening.batches_done:
                raise too_few(opening, type_of(loader), self._count)
        else:
            replay(self, opening, type_of(loader), advice(loader))

    def _fetch(self) -> Any:
        with self._streams, saved_streams(), calm_workers(self._loaders, self._opening.signals):
            seed_streams(self._opening.batch_key(self._count))
            item = next(self._items)
        self._count += 1
        return item

    def _position(self) -> dict[str, Any]:
        return {"kind": "replay", "batches": self._count, "workers": self._workers}

    def _release(self) -> None:
        close = getattr(self._items, "close", None)
        if callable(close) and self._items is not self._loader:
            close()
        self._items = iter(())


def replay(this: Pass, opening: Opening, what: str, hint: str) -> None:
    """Consume as many batches as the checkpoint says, with progress and one warning; `LoopError` if fewer come."""
    wanted = opening.batches_done
    if not wanted:
        return
    this.replayed = True
    opening.warn(f"{opening.address}: {what} is replayed from its start, {wanted} batches are made again; {hint}")
    with opening.skipping(f"replaying {opening.address}", wanted) as advance:
        for done in range(wanted):
            try:
                next(this)
            except StopIteration:
                raise too_few(opening, what, done) from None
            advance(1)


def too_few(opening: Opening, what: str, done: int) -> LoopError:
    """The error for data that ended before the place of the checkpoint."""
    return LoopError(
        f"{opening.address}: {what} gave {done} batches on resume, {opening.batches_done} were consumed before the "
        "checkpoint",
        "the data changed, or it can be iterated only once (a generator object): pass something that "
        "starts anew with every pass, such as a list or an object with __iter__",
    )


def check_workers(opening: Opening, workers: int) -> None:
    """`LoopError` where a replay would be divided among another number of workers."""
    before = opening.resume["workers"] if opening.resume else workers
    if before != workers:
        raise LoopError(
            f"{opening.address}: num_workers is {workers}, it was {before} when the checkpoint was written",
            "data that is replayed depends on the number of workers: set it back, or start another run",
        )


def workers_of(loader: Any) -> int:
    """`num_workers` of anything that has one, else 0."""
    workers = getattr(loader, "num_workers", 0)
    return workers if isinstance(workers, int) else 0


def type_of(loader: Any) -> str:
    """The name of the real type: some wrappers pretend another `__class__`."""
    return type(loader).__qualname__


def advice(loader: Any) -> str:
    """What would make this loader resume without replaying."""
    if hasattr(loader, "base_dataloader") and accelerate_accumulation.ends_with_the_loader():
        # The plain loader tells Accelerate no end, at which a window would be cut short: that is another training.
        return "for a prepared loader whose last batch ends a window of accumulation there is nothing faster yet"
    if hasattr(loader, "base_dataloader"):
        return "fast instead: pass the DataLoader from before prepare() and move batches to the device in the loop"
    if hasattr(loader, "dataset"):
        return f"fast instead: a DataLoader without the __iter__ of {type_of(loader)}"
    return "fast instead: a DataLoader over a map-style dataset"
