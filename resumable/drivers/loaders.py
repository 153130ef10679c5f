"""Stand-ins for the loaders of a fit: each pass is read by address. Independent of any framework.

A framework may request an iterator before it knows the epoch, and read one batch ahead of an iterable without a
length. So a pass is opened when its first batch is requested, and a position is that of the *trained* batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from resumable.data.addresses import PassAddress
from resumable.data.open_pass import Data, Pass
from resumable.drivers.state import SavedState, State


class StandInLoader:
    """Stands in for one of the user's loaders: the attributes of the loader, without its iteration and its state."""

    def __init__(self, loader: Iterable[object], is_read_by_loop: Callable[[Iterator[object]], bool]) -> None:
        """Wrap `loader`; `is_read_by_loop` returns whether the framework's loop reads from an iterator."""
        self._loader = loader
        self._is_read_by_loop = is_read_by_loop

    def __getattr__(self, name: str) -> Any:
        # A framework would save and load the state of an object that has one, by its own rules.
        if name in ("state_dict", "load_state_dict", "_loader", "_is_read_by_loop"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # a loader without a length raises TypeError

    def __iter__(self) -> Iterator[object]:
        return _StandInIterator(self._reading)

    def _reading(self, turns: Iterator[object]) -> Callable[[], object]:
        """Return the function that fetches the next batch for the iterator `turns`."""
        if self._is_read_by_loop(turns):
            return partial(self._fetch, turns)
        # A callback that reads a batch gets it from the user's own loader, and changes no position.
        return partial(next, iter(self._loader))

    def _fetch(self, turns: Iterator[object]) -> object:
        raise NotImplementedError


class TrainLoader(StandInLoader):
    """One loader of the training. `epoch()` is the one in progress; `wanted(self)` is called before each batch."""

    def __init__(
        self,
        loader: Iterable[object],
        data: Data,
        *,
        index: int,
        epoch: Callable[[], int],
        is_read_by_loop: Callable[[Iterator[object]], bool],
        wanted: Callable[[TrainLoader], bool],
        resume: SavedState | None,
    ) -> None:
        super().__init__(loader, is_read_by_loop)
        self.index = index
        self.replayed = False
        self.number = 0  # of the pass in its epoch
        self._epoch_of_pass: int | None = None
        self._data = data
        self._epoch = epoch
        self._wanted = wanted
        self._resume = resume
        self._pass: Pass[object] | None = None
        self._turns: Iterator[object] | None = None  # the iterator that reads the open pass
        self._before: State | None = None  # the position before the batch that was read ahead

    def open(self) -> Pass[object]:
        """Return the pass of the next batch; opening a resumed one may replay it."""
        if self._pass is None:
            epoch, resume = self._epoch(), self._resume
            self._resume = None
            if resume is not None:
                self.number = resume["number"]
            else:
                self.number = self.number + 1 if self._epoch_of_pass == epoch else 0
            self._epoch_of_pass = epoch
            address = PassAddress(
                loop="fit" if self.index == 0 else f"fit:{self.index}", number=self.number, epoch=epoch
            )
            self._pass = self._data.open(self._loader, address, resume, set_epoch=epoch)
            self.replayed = self._pass.replayed
        return self._pass

    def turn_to(self, turns: Iterator[object]) -> None:
        """Read for the iterator `turns` from now on; a pass that another iterator had open is closed."""
        if self._turns is not turns:
            if self._turns is not None:
                self.close()
            self._turns = turns

    def _fetch(self, turns: Iterator[object]) -> object:
        self.turn_to(turns)
        ahead = self._wanted(self)
        opened = self.open()
        self._before = copy.deepcopy(self._standing(opened)) if ahead else None
        return next(opened)

    @property
    def exhausted(self) -> bool:
        """True where the open pass has returned every batch of its length."""
        opened = self._pass
        return opened is not None and opened.length is not None and opened.position()["batches"] >= opened.length

    def position(self) -> State:
        """Return the position of the training in this loader."""
        if self._before is None:
            return self._standing(self.open())
        if self._pass is None or "drawn" not in self._before:
            return self._before
        # The states of samplers are captured now, and so is the number of draws.
        return self._before | {"drawn": self._pass.position()["drawn"]}

    def _standing(self, opened: Pass[object]) -> State:
        return opened.position() | {"length": opened.length, "number": self.number}

    def close(self) -> None:
        """Close the open pass, if any."""
        if self._pass is not None:
            self._pass.close()
        self._pass = None


class ValidationLoader(StandInLoader):
    """One loader of the validation. `address()` is that of the next pass; `wanted()` is called before each batch."""

    def __init__(
        self,
        loader: Iterable[object],
        data: Data,
        *,
        address: Callable[[], PassAddress],
        epoch: Callable[[], int],
        is_read_by_loop: Callable[[Iterator[object]], bool],
        wanted: Callable[[], None],
    ) -> None:
        super().__init__(loader, is_read_by_loop)
        self._data = data
        self._address = address
        self._epoch = epoch
        self._wanted = wanted
        self._pass: Pass[object] | None = None
        self._turns: Iterator[object] | None = None

    def _fetch(self, turns: Iterator[object]) -> object:
        self._wanted()
        if self._turns is not turns or self._pass is None:
            self.close()
            self._turns = turns
            self._pass = self._data.open(self._loader, self._address(), None, set_epoch=self._epoch())
        return next(self._pass)

    def close(self) -> None:
        """Close the open pass, if any."""
        if self._pass is not None:
            self._pass.close()
        self._pass = None


class _StandInIterator(Iterator[object]):
    """The batches of one pass; its reader is known only at the first one."""

    def __init__(self, reading: Callable[[Iterator[object]], Callable[[], object]]) -> None:
        self._reading = reading
        self._read: Callable[[], object] | None = None

    def __next__(self) -> Any:
        if self._read is None:
            self._read = self._reading(self)
        return self._read()
