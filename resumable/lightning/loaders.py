"""The loaders of a fit, each pass over them by address; knows neither Lightning's loops nor storage.

Lightning asks an iterable for an iterator before it knows the epoch, and reads one batch ahead where it cannot know
the length. So a pass is opened when its first batch is wanted, and a position is that of the batches *trained*.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from resumable.data.addresses import PassAddress
from resumable.data.open_passes import Data, Pass


class Standing:
    """What stands in for one of the user's loaders: everything of the loader but its iteration and its state."""

    def __init__(self, loader: Any, asks: Callable[[Iterator[Any]], bool]) -> None:
        """`asks` tells whether an iterator is the one that Lightning's loop reads from."""
        self._loader = loader
        self._asks = asks

    def __getattr__(self, name: str) -> Any:
        # Lightning would save and load the state of what has one, by its own rules.
        if name in ("state_dict", "load_state_dict", "_loader", "_asks"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return _Turns(self._reading)

    def _reading(self, turns: Iterator[Any]) -> Callable[[], Any]:
        """What gives one batch after the other to `turns`."""
        if self._asks(turns):
            return partial(self._fetch, turns)
        # A callback that has a look at a batch gets it from the user's own loader, and changes no position.
        return partial(next, iter(self._loader))

    def _fetch(self, turns: Iterator[Any]) -> Any:
        raise NotImplementedError


class TrainLoader(Standing):
    """One loader of the training; `epoch()` tells the one in progress, `wanted(self)` is told before each batch."""

    def __init__(
        self,
        loader: Any,
        data: Data,
        *,
        index: int,
        epoch: Callable[[], int],
        asks: Callable[[Iterator[Any]], bool],
        wanted: Callable[[TrainLoader], bool],
        resume: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(loader, asks)
        self.index = index
        self.replayed = False
        self.number = 0  # of the pass in its epoch
        self._epoch_of_pass: int | None = None
        self._data = data
        self._epoch = epoch
        self._wanted = wanted
        self._resume = resume
        self._pass: Pass | None = None
        self._turns: Iterator[Any] | None = None  # whose batches these are
        self._before: dict[str, Any] | None = None  # the position before the batch that was read ahead

    def open(self) -> Pass:
        """The pass that the next batch comes from; opening one that resumes may replay it."""
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

    def turn_to(self, turns: Iterator[Any]) -> None:
        """From here on batches are for `turns`; if they were for others, those had the pass in progress."""
        if self._turns is not turns:
            if self._turns is not None:
                self.close()
            self._turns = turns

    def _fetch(self, turns: Iterator[Any]) -> Any:
        self.turn_to(turns)
        ahead = self._wanted(self)
        opened = self.open()
        self._before = copy.deepcopy(self._standing(opened)) if ahead else None
        return next(opened)

    def position(self) -> dict[str, Any]:
        """Where the training stands in this loader."""
        if self._before is None:
            return self._standing(self.open())
        if self._pass is None or "drawn" not in self._before:
            return self._before
        # The states of samplers are captured as of now, and so is how far they were drawn.
        return self._before | {"drawn": self._pass.position()["drawn"]}

    def _standing(self, opened: Pass) -> dict[str, Any]:
        return opened.position() | {"length": opened.length, "number": self.number}

    def close(self) -> None:
        if self._pass is not None:
            self._pass.close()
        self._pass = None


class ValidationLoader(Standing):
    """One loader of the validation; `address()` says where in the run it is asked, `wanted()` is told before each."""

    def __init__(
        self,
        loader: Any,
        data: Data,
        *,
        address: Callable[[], PassAddress],
        epoch: Callable[[], int],
        asks: Callable[[Iterator[Any]], bool],
        wanted: Callable[[], None],
    ) -> None:
        super().__init__(loader, asks)
        self._data = data
        self._address = address
        self._epoch = epoch
        self._wanted = wanted
        self._pass: Pass | None = None
        self._turns: Iterator[Any] | None = None

    def _fetch(self, turns: Iterator[Any]) -> Any:
        self._wanted()
        if self._turns is not turns or self._pass is None:
            self.close()
            self._turns = turns
            self._pass = self._data.open(self._loader, self._address(), None, set_epoch=self._epoch())
        return next(self._pass)

    def close(self) -> None:
        if self._pass is not None:
            self._pass.close()
        self._pass = None


class _Turns(Iterator[Any]):
    """The batches of one pass; who reads them is known with the first one only."""

    def __init__(self, reading: Callable[[Iterator[Any]], Callable[[], Any]]) -> None:
        self._reading = reading
        self._read: Callable[[], Any] | None = None

    def __next__(self) -> Any:
        if self._read is None:
            self._read = self._reading(self)
        return self._read()
