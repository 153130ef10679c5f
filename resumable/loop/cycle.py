"""An endless iterator over a loader whose position belongs to the loop around it; knows no storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resumable.data.addresses import PassAddress
from resumable.data.open_passes import Data, Pass
from resumable.errors import LoopError


class Cycle:
    """`next(cycle)` gives the next batch, pass after pass, for ever.

    It has no boundary of its own: its position is captured with the enclosing loop's, and put back with it.
    """

    def __init__(self, data: Data, loader: Any, name: str, *, begin: Callable[[], None]) -> None:
        self.name = name
        self._data = data
        self._loader = loader
        self._begin = begin
        self._pass: Pass | None = None
        self._number = 0
        self._resume: Mapping[str, Any] | None = None

    def __iter__(self) -> Cycle:
        return self

    def __next__(self) -> Any:
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
        """The pass and the batches of it that were consumed."""
        loader = self._pass.position() if self._pass else self._resume
        return {"number": self._number, "loader": loader}

    def rewind(self, position: Mapping[str, Any] | None) -> None:
        """Stand where `position` says; None is the very beginning."""
        self._close()
        self._number = position["number"] if position else 0
        self._resume = position["loader"] if position else None

    def _open(self) -> Pass:
        address = PassAddress(loop=f"cycle:{self.name}", number=self._number, epoch=0)
        self._pass = self._data.open(self._loader, address, self._resume, set_epoch=self._number)
        self._resume = None
        return self._pass

    def _close(self) -> None:
        if self._pass is not None:
            self._pass.close()
        self._pass, self._resume = None, None
