"""The iterator behind `for`: yields the turns of a loop, and detects how it was left. Independent of training."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import ref

from resumable.loop.iteration.frame_inspection import DrivingFrame, driving_frame, is_left_on_purpose

T = TypeVar("T")


class Iteration:
    """One `for` over a loop: the frame that drives it while its body has control."""

    def __init__(self, loop: Iterator[object]) -> None:
        self._loop = ref(loop)
        self.driver: DrivingFrame | None = None

    @property
    def loop(self) -> Iterator[object] | None:
        """The loop itself, unless its body is left for good."""
        return self._loop() if self.driver is not None else None

    @property
    def driven(self) -> bool:
        """True while a frame that drives the loop is on the stack of a living thread."""
        return self.driver is not None and self.driver.on_a_stack

    @property
    def failed(self) -> bool:
        """True if an exception ended the frame that drove the loop, as far as the interpreter still holds it."""
        last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        return self.driver is not None and any(map(self.driver.failed_with, (sys.exception(), last)))


@dataclass(frozen=True)
class LoopTurns(Generic[T]):
    """A loop that nothing drives yet: the generator of its turns, and how many of them are to come.

    `remaining` gets whether the loop has begun. It returns None where the number of turns is unknown.
    """

    turns: Generator[T, None, None]
    remaining: Callable[[bool], int | None]


class LoopIterator(Iterator[T], Generic[T]):
    """The turns of a loop, for one `for`, several in a row, or `next`; `len()` is the number of turns that remain.

    Every `for` gets an iterator of its own, which dies when that `for` is left, even while a name holds this object.
    `entered` is called when one begins, `refuse` before each turn and after it. `left` is called with whether it was
    left on purpose (by `break` or `return`) and not by an exception; it must not raise.
    """

    def __init__(
        self,
        loop: LoopTurns[T],
        *,
        entered: Callable[[Iteration], None],
        refuse: Callable[[], None],
        left: Callable[[Iteration, bool], None],
    ) -> None:
        self._loop = loop.turns
        self._remaining = loop.remaining
        self._entered = entered
        self._refuse = refuse
        self._left = left
        self._own: Iterator[T] | None = None
        self._iteration: Iteration | None = None

    def __iter__(self) -> Iterator[T]:
        self._refuse()
        self._iteration = iteration = Iteration(self._loop)
        self._entered(iteration)
        return _turns(self._loop, iteration, self._refuse, self._left)

    def __next__(self) -> T:
        if self._own is None:
            self._own = iter(self)
        return next(self._own)

    def __len__(self) -> int:
        """Return how many turns are to come. Raises `TypeError` where that is unknown."""
        state = inspect.getgeneratorstate(self._loop)
        remaining = 0 if state == inspect.GEN_CLOSED else self._remaining(state != inspect.GEN_CREATED)
        if remaining is None:
            raise TypeError("a loader without a length: how many batches are left is unknown")
        return remaining

    def __bool__(self) -> bool:
        return True  # as every iterator

    def close(self) -> None:
        """Go no further, as a generator that is closed. It is left on purpose unless an exception is being handled."""
        if self._iteration is not None and self._iteration.loop is not None:
            self._left(self._iteration, sys.exception() is None)
            self._iteration.driver = None
        self._loop.close()


def _turns(
    loop: Generator[T, None, None],
    iteration: Iteration,
    refuse: Callable[[], None],
    left: Callable[[Iteration, bool], None],
) -> Iterator[T]:
    refuse()
    iteration.driver = driving_frame()
    try:
        for turn in loop:
            iteration.driver = driving_frame()
            try:
                yield turn
            except GeneratorExit:
                if iteration.driver is not None:
                    left(iteration, is_left_on_purpose(iteration.driver))
                raise
            if inspect.getgeneratorstate(loop) == inspect.GEN_CLOSED:
                return  # it was ended from its own body, by `stop()` and the close of the run
            refuse()
    finally:
        iteration.driver = None
