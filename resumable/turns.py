"""What a loop turns over: a generator, of which `len()` is what is left; knows no run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")


class Turns(Generic[T]):
    """An iterator that bars such as tqdm's can ask how many turns are left.

    A `for` takes the generator out of it, so that a turn costs nothing more and a `break` closes the generator at once.
    """

    def __init__(self, generator: Generator[T], left: Callable[[bool], int | None]) -> None:
        """`left(begun)` returns how many turns are to come, or None where nobody knows."""
        self._generator = generator
        self._left = left

    def __iter__(self) -> Iterator[T]:
        return self._generator

    def __next__(self) -> T:
        return next(self._generator)

    def __len__(self) -> int:
        """How many turns are to come. `TypeError` where nobody knows, as of any iterator without a length."""
        state = inspect.getgeneratorstate(self._generator)
        left = 0 if state == inspect.GEN_CLOSED else self._left(state != inspect.GEN_CREATED)
        if left is None:
            raise TypeError("a loader without a length does not say how many batches are left")
        return left

    def __bool__(self) -> bool:
        return True  # as every iterator

    def close(self) -> None:
        """End it where it is, as `close()` of a generator."""
        self._generator.close()

    def through(self, generator: Generator[S]) -> Turns[S]:
        """The same turns, handed out by another generator."""
        return Turns(generator, self._left)
