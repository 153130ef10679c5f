"""Endless iterators over loaders, whose positions belong to the loop around them. Independent of storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from resumable.data.addresses import PassAddress
from resumable.data.open_pass import Data, Pass
from resumable.errors import LoopError
from resumable.loop import loop_errors

T = TypeVar("T")


class Cycle(Iterator[T], Generic[T]):
    """An endless iterator: `next(cycle)` returns the next batch of the loader, pass after pass.

    It has no boundary of its own: its position is captured and restored with that of the enclosing loop.
    """

    def __init__(self, data: Data, loader: Iterable[T], name: str, *, begin: Callable[[], None]) -> None:
        self.name = name
        self._data = data
        self._loader = loader
        self._begin = begin
        self._pass: Pass[T] | None = None
        self._number = 0
        self._resume: Mapping[str, Any] | None = None

    def __next__(self) -> T:
        self._begin()
        current = self._pass or self._open()
        try:
            return next(current)
        except StopIteration:
            self._close()
            self._number += 1
        try:
            return next(self._open())
        except StopIteration:
            raise LoopError(
                f"cycle {self.name!r}: a whole pass over the loader gave no batch",
                "is the dataset smaller than one batch with drop_last=True, or a generator that can be read only once?",
            ) from None

    def position(self) -> dict[str, Any]:
        """Return the number of the pass, and the batches of it that were consumed."""
        loader = self._pass.position() if self._pass else self._resume
        return {"number": self._number, "loader": loader}

    def rewind(self, position: Mapping[str, Any] | None) -> None:
        """Go to `position`; None is the very beginning."""
        self._close()
        self._number = position["number"] if position else 0
        self._resume = position["loader"] if position else None

    def _open(self) -> Pass[T]:
        address = PassAddress(loop=f"cycle:{self.name}", number=self._number, epoch=0)
        self._pass = self._data.open(self._loader, address, self._resume, set_epoch=self._number)
        self._resume = None
        return self._pass

    def _close(self) -> None:
        if self._pass is not None:
            self._pass.close()
        self._pass, self._resume = None, None


class Cycles:
    """The cycles of a run by name. `stored` are the positions of the checkpoint that it resumes from."""

    def __init__(self, data: Data, stored: Mapping[str, Mapping[str, Any]], *, begin: Callable[[], None]) -> None:
        self._data = data
        self._stored = dict(stored)
        self._begin = begin
        self._cycles: dict[str, Cycle[Any]] = {}

    def create(self, loader: Iterable[T], name: str | None) -> Cycle[T]:
        """Return a new cycle at its stored position, numbered without a name. Raises `LoopError` for a used name."""
        chosen = name or f"cycle{len(self._cycles)}"
        if chosen in self._cycles:
            raise loop_errors.cycle_twice(chosen)
        cycle = Cycle(self._data, loader, chosen, begin=self._begin)
        cycle.rewind(self._stored.get(chosen))
        self._cycles[chosen] = cycle
        return cycle

    def resume_from(self, stored: Mapping[str, Mapping[str, Any]]) -> None:
        """Let every cycle resume from the positions of another checkpoint, at the next `rewind`."""
        self._stored = dict(stored)

    def positions(self) -> dict[str, Any]:
        """Return the position of each cycle; one that was not created in this attempt is where it was stored."""
        return self._stored | {name: cycle.position() for name, cycle in self._cycles.items()}

    def rewind(self) -> None:
        """Put every cycle back to its stored position."""
        for name, cycle in self._cycles.items():
            cycle.rewind(self._stored.get(name))
