"""How a `for` is left, seen from the iterator that is dropped: by break and return, or by an exception."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from resumable.loop.iteration.loop_iterator import Iteration, LoopIterator, LoopTurns


class Bar:
    """Goes over an iterable as tqdm does: an object that a script keeps, with a generator of its own."""

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        iterable = self.iterable
        try:
            yield from (each for each in iterable)
        finally:
            self.closed = True


class Driven:
    """Three turns, and how they were left."""

    def __init__(self, wrapped: type[Bar] | None) -> None:
        self.wrapped = wrapped
        self.left: list[bool] = []
        self.uses: list[Iteration] = []

    def turns(self) -> Any:
        def loop() -> Generator[int, None, None]:
            yield from range(3)

        turns = LoopIterator(
            LoopTurns(loop(), lambda begun: None),
            entered=self.uses.append,
            refuse=lambda: None,
            left=lambda _, how: self.left.append(how),
        )
        return self.wrapped(turns) if self.wrapped else turns


def fails(*_: Any) -> Any:
    raise ValueError("a bad day")


def breaks(loop: Driven) -> Any:
    for turn in loop.turns():
        if turn:
            break


def breaks_out_of_a_try(loop: Driven) -> Any:
    for _ in loop.turns():
        try:
            break
        finally:
            loop.turns()


def breaks_in_a_handler(loop: Driven) -> Any:
    for _ in loop.turns():
        try:
            fails()
        except ValueError:
            break


def breaks_and_keeps(loop: Driven) -> Any:
    kept = loop.turns()
    for _ in kept:
        break
    assert loop.left == [True]
    return kept


def returns(loop: Driven) -> Any:
    for _ in loop.turns():
        return


def returns_a_value_out_of_with(loop: Driven) -> Any:
    with contextlib.nullcontext():
        for turn in loop.turns():
            with contextlib.nullcontext():
                return turn


def breaks_behind_enumerate_and_zip(loop: Driven) -> Any:
    for _ in zip(enumerate(loop.turns()), range(9), strict=False):
        break


def breaks_out_of_a_generator(loop: Driven) -> Any:
    def doubled() -> Iterator[Any]:
        for turn in loop.turns():
            yield turn * 2

    for _ in doubled():
        break


def returns_with_an_iterator_in_a_name(loop: Driven) -> Any:
    kept = iter(loop.turns())
    next(kept)


def deletes_an_iterator(loop: Driven) -> Any:
    kept = iter(loop.turns())
    next(kept)
    del kept


def closes(loop: Driven) -> Any:
    turns = loop.turns()
    with contextlib.closing(turns if isinstance(turns, LoopIterator) else turns.iterable) as kept:
        next(kept)


ON_PURPOSE = [
    breaks,
    breaks_out_of_a_try,
    breaks_in_a_handler,
    breaks_and_keeps,
    returns,
    returns_a_value_out_of_with,
    breaks_behind_enumerate_and_zip,
    breaks_out_of_a_generator,
    returns_with_an_iterator_in_a_name,
    deletes_an_iterator,
    closes,
]


def raises(loop: Driven) -> Any:
    for _ in loop.turns():
        raise ValueError


def calls_what_raises(loop: Driven) -> Any:
    for _ in loop.turns():
        fails()


def divides_by_zero(loop: Driven) -> Any:
    for turn in loop.turns():
        1 / turn


def raises_in_a_comprehension(loop: Driven) -> Any:
    return [fails() for _ in loop.turns()]


def raises_again(loop: Driven) -> Any:
    for _ in loop.turns():
        try:
            fails()
        except ValueError:
            raise


def raises_past_a_finally(loop: Driven) -> Any:
    for _ in loop.turns():
        try:
            fails()
        finally:
            loop.turns()


def raises_in_with_that_swallows(loop: Driven) -> Any:
    with contextlib.suppress(ValueError):
        for _ in loop.turns():
            fails()


def raises_and_keeps(loop: Driven) -> Any:
    kept = loop.turns()
    for _ in kept:
        fails()


def exits(loop: Driven) -> Any:
    for _ in loop.turns():
        raise SystemExit(0)


def raises_behind_a_generator(loop: Driven) -> Any:
    for _ in map(fails, loop.turns()):
        pass


def a_generator_raises(loop: Driven) -> Any:
    def doubled() -> Iterator[Any]:
        for turn in loop.turns():
            yield turn
            fails()

    for _ in doubled():
        pass


def fails_while_it_is_closed(loop: Driven) -> Any:
    turns = loop.turns()
    with contextlib.closing(turns if isinstance(turns, LoopIterator) else turns.iterable) as kept:
        next(kept)
        fails()


BY_AN_EXCEPTION = [
    raises,
    calls_what_raises,
    divides_by_zero,
    raises_in_a_comprehension,
    raises_again,
    raises_past_a_finally,
    raises_in_with_that_swallows,
    raises_and_keeps,
    exits,
    raises_behind_a_generator,
    a_generator_raises,
    fails_while_it_is_closed,
]


@pytest.mark.parametrize("wrapped", [None, Bar])
@pytest.mark.parametrize("body", [*ON_PURPOSE, *BY_AN_EXCEPTION])
def test_a_loop_knows_how_it_was_left(body: Callable[[Driven], Any], wrapped: type[Bar] | None) -> None:
    loop = Driven(wrapped)
    with contextlib.suppress(ValueError, ZeroDivisionError, SystemExit):
        body(loop)
    gc.collect()
    assert loop.left == [body in ON_PURPOSE]


@pytest.mark.parametrize("wrapped", [None, Bar])
def test_a_loop_is_driven_while_its_body_runs_and_no_longer(wrapped: type[Bar] | None) -> None:
    loop = Driven(wrapped)
    kept = loop.turns()
    for _ in kept:
        assert loop.uses[-1].driven
        break
    assert not loop.uses[-1].driven
    for _ in loop.turns():
        pass
    assert not loop.uses[-1].driven


@pytest.mark.parametrize("wrapped", [None, Bar])
def test_a_loop_that_a_traceback_keeps_is_not_driven(wrapped: type[Bar] | None) -> None:
    loop = Driven(wrapped)

    def by_hand() -> None:
        kept = iter(loop.turns())
        next(kept)
        assert loop.uses[-1].driven
        fails()

    with pytest.raises(ValueError, match="a bad day") as caught:
        by_hand()
    assert loop.uses[-1].loop is not None
    assert not loop.uses[-1].driven
    assert loop.left == []
    del caught


def test_a_loop_in_another_thread_is_driven() -> None:
    loop, seen, over = Driven(None), threading.Event(), threading.Event()

    def trains() -> None:
        for _ in loop.turns():
            seen.set()
            over.wait()

    thread = threading.Thread(target=trains)
    thread.start()
    seen.wait()
    assert loop.uses[-1].driven
    over.set()
    thread.join()
    assert not loop.uses[-1].driven


def test_turns_that_are_kept_go_on_where_a_for_left_them() -> None:
    turns = Driven(None).turns()
    assert next(turns) == 0
    for turn in turns:
        assert turn == 1
        break
    assert list(turns) == [2]
    assert list(turns) == []
