"""The loaders of a fit, each pass over them by address; knows neither Lightning's loops nor storage.

Lightning asks an iterable for an iterator before it knows the epoch, and reads one batch ahead where it cannot know
the length. So a pass is opened when its first batch is wanted, and a position is that of the batches *trained*.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from resumable.data.addresses import PassAddress
from resumable.data.loader import Data, Pass


class Standing:
    """What stands in for one of the user's loaders: everything of the loader but its iteration and its state."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        # Lightning would save and load the state of what has one, by its own rules.
        if name in ("state_dict", "load_state_dict", "_loader"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
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
        wanted: Callable[[TrainLoader], bool],
        resume: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(loader)
        self.index = index
        self.replayed = False
        self.number = 0  # of the pass in its epoch
        self._epoch_of_pass: int | None = None
        self._data = data
        self._epoch = epoch
        self._wanted = wanted
        self._resume = resume
        self._pass: Pass | None = None
        self._before: dict[str, Any] | None = None  # the position before the batch that was read ahead

    def __iter__(self) -> Iterator[Any]:
        self.close()
        return _Turns(self)

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

    def fetch(self) -> Any:
        ahead = self._wanted(self)
        opened = self.open()
        self._before = copy.deepcopy(self._standing(opened)) if ahead else None
        return next(opened)

    def position(self) -> dict[str, Any]:
        """Where the training stands in this loader."""
        return self._before or self._standing(self.open())

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
        wanted: Callable[[], None],
    ) -> None:
        super().__init__(loader)
        self._data = data
        self._address = address
        self._epoch = epoch
        self._wanted = wanted
        self._pass: Pass | None = None

    def __iter__(self) -> Iterator[Any]:
        self.close()
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        self._wanted()
        opened = self._pass = self._data.open(self._loader, self._address(), None, set_epoch=self._epoch())
        for batch in opened:
            yield batch
            self._wanted()

    def close(self) -> None:
        if self._pass is not None:
            self._pass.close()
        self._pass = None


class _Turns(Iterator[Any]):
    """The batches of one pass, opened with the first of them."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader

    def __next__(self) -> Any:
        return self._loader.fetch()
