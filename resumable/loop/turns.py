"""Hands the turns of a loop to a `for`, and notices when that was left, and how; knows nothing of training."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import ref

from resumable.loop.frames import Driver, driver, let_go

T = TypeVar("T")


class Use:
    """What is known of one loop's use: who drives it now, while its body has control."""

    def __init__(self, loop: Iterator[object]) -> None:
        self._loop = ref(loop)
        self.driver: Driver | None = None

    @property
    def loop(self) -> Iterator[object] | None:
        """The loop itself, unless its body is left for good."""
        return self._loop() if self.driver is not None else None

    @property
    def driven(self) -> bool:
        """Whether a frame that drives the loop is on the stack of a living thread."""
        return self.driver is not None and self.driver.on_a_stack

    @property
    def failed(self) -> bool:
        """Whether an exception ended the frame that drove the loop, as far as the interpreter still knows it."""
        last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        return self.driver is not None and any(map(self.driver.failed_with, (sys.exception(), last)))


@dataclass(frozen=True)
class Loop(Generic[T]):
    """A loop that nobody drives yet: the generator of its turns, and how many of them are to come.

    `remaining` gets whether the loop has begun. It returns None where the number of turns is not known.
    """

    turns: Generator[T, None, None]
    remaining: Callable[[bool], int | None]


class Turns(Iterator[T], Generic[T]):
    """The turns of a loop, for one `for` or several one after the other, or for `next`; `len()` is what is left.

    Every `for` gets an iterator of its own, which dies when that `for` is left, also where somebody holds the turns.
    `entered` is called when one begins, `refuse` before each turn and after it. `left` is called with whether it was
    left on purpose (by `break` or `return`) and not by an exception; it must not raise.
    """

    def __init__(
        self,
        loop: Loop[T],
        *,
        entered: Callable[[Use], None],
        refuse: Callable[[], None],
        left: Callable[[Use, bool], None],
    ) -> None:
        self._loop = loop.turns
        self._remaining = loop.remaining
        self._entered = entered
        self._refuse = refuse
        self._left = left
        self._own: Iterator[T] | None = None
        self._use: Use | None = None

    def __iter__(self) -> Iterator[T]:
        self._refuse()
        self._use = use = Use(self._loop)
        self._entered(use)
        return _turning(self._loop, use, self._refuse, self._left)

    def __next__(self) -> T:
        if self._own is None:
            self._own = iter(self)
        return next(self._own)

    def __len__(self) -> int:
        """Return how many turns are to come. `TypeError` where that is not known, as of any iterator without length."""
        state = inspect.getgeneratorstate(self._loop)
        remaining = 0 if state == inspect.GEN_CLOSED else self._remaining(state != inspect.GEN_CREATED)
        if remaining is None:
            raise TypeError("a loader without a length does not say how many batches are left")
        return remaining

    def __bool__(self) -> bool:
        return True  # as every iterator

    def close(self) -> None:
        """Go no further, as a generator that is closed; left on purpose unless an exception is being handled."""
        if self._use is not None and self._use.loop is not None:
            self._left(self._use, sys.exception() is None)
            self._use.driver = None
        self._loop.close()


def _turning(
    loop: Generator[T, None, None], use: Use, refuse: Callable[[], None], left: Callable[[Use, bool], None]
) -> Iterator[T]:
    refuse()
    use.driver = driver()
    try:
        for turn in loop:
            use.driver = driver()
            try:
                yield turn
            except GeneratorExit:
                if use.driver is not None:
                    left(use, let_go(use.driver))
                raise
            if inspect.getgeneratorstate(loop) == inspect.GEN_CLOSED:
                return  # it was ended from its own body, by `stop()` and the close of the run
            refuse()
    finally:
        use.driver = None
