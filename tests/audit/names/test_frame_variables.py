"""Variables of a frame that waits: read and written on every Python that runs this file, and nothing is kept alive."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from resumable.audit.names.frame_variables import read, write


class Thing:
    """Something that can be referenced weakly."""


def turns(n: int, *, up: int = 0, **values: object) -> Iterator[int]:
    """Give control back `n` times; before the second time, write the values into the frame that waits."""
    for turn in range(n):
        if turn == 1:
            frame: Any = sys._getframe(1)
            for _ in range(up):
                frame = frame.f_back
            for name, value in values.items():
                write(frame, name, value)
            del frame
        yield turn


def here() -> FrameType:
    return sys._getframe(1)


# -- what is written is what the code reads ---------------------------------------------------------------------------


def local() -> Any:
    x = 0
    for _ in turns(2, x=7):
        pass
    return x


def local_not_bound_yet() -> Any:
    for turn in turns(2, x=7):
        if turn == 1:
            return x  # noqa: F821
        if turn == 5:
            x = 0  # noqa: F841
    return None


def deleted_local() -> Any:
    x = 0
    del x
    for turn in turns(2, x=7):
        if turn == 1:
            return x  # noqa: F821
    return None


def cell() -> Any:
    x = 0

    def inner() -> Any:
        return x

    for _ in turns(2, x=7):
        pass
    return inner()


def cell_not_bound_yet() -> Any:
    def inner() -> Any:
        return x

    for turn in turns(2, x=7):
        if turn == 1:
            return inner()
    x = 0
    return None


def free_variable() -> Any:
    x = 0

    def inner() -> None:
        nonlocal x
        for _ in turns(2, x=7):
            pass

    inner()
    return x


def global_of_a_function() -> Any:
    global x_of_this_module
    x_of_this_module = 0
    for _ in turns(2, x_of_this_module=7):
        pass
    return x_of_this_module


def class_body() -> Any:
    class Body:
        x = 0
        for _ in turns(2, x=7):
            pass

    return Body.x


def module_level() -> Any:
    namespace = {"turns": turns}
    exec("x = 0\nfor _ in turns(2, x=7): pass", namespace)
    return namespace["x"]


def module_level_with_a_comprehension() -> Any:
    namespace = {"turns": turns}
    up = 1 if sys.version_info < (3, 12) else 0
    exec(f"x = 0\nr = [x for _ in turns(2, up={up}, x=7)]", namespace)
    return namespace["x"]


def two_dicts() -> Any:
    outer, inner = {"turns": turns}, dict[str, Any]()
    exec("x = 0\nfor _ in turns(2, x=7): pass", outer, inner)
    assert "x" not in outer
    return inner["x"]


def generator_function() -> Any:
    def generator() -> Iterator[Any]:
        x = 0
        for _ in turns(2, x=7):
            yield x

    return list(generator())[-1]


def coroutine() -> Any:
    async def waiting() -> Any:
        x = 0
        for _ in turns(2, x=7):
            await asyncio.sleep(0)
        return x

    return asyncio.run(waiting())


def caller_of_a_comprehension() -> Any:
    x = 0
    up = 1 if sys.version_info < (3, 12) else 0
    return [x for _ in turns(2, up=up, x=7)][-1]


def parameter() -> Any:
    def function(x: int, *more: int, **named: int) -> Any:
        for _ in turns(2, x=7):
            pass
        return x

    return function(0)


CASES = [
    local,
    local_not_bound_yet,
    deleted_local,
    cell,
    cell_not_bound_yet,
    free_variable,
    global_of_a_function,
    class_body,
    module_level,
    module_level_with_a_comprehension,
    two_dicts,
    generator_function,
    coroutine,
    caller_of_a_comprehension,
    parameter,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_written_value_is_what_the_code_reads(case: Callable[[], Any]) -> None:
    assert case() == 7


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("looking", [False, True], ids=["tracing", "a_debugger_that_looks"])
def test_the_same_under_a_tracer(case: Callable[[], Any], looking: bool) -> None:
    if case is module_level_with_a_comprehension and sys.version_info[:2] == (3, 12):
        pytest.skip("tracing such a comprehension is enough for a RuntimeWarning of Python 3.12")

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if looking:
            len(frame.f_locals)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        value = case()
    finally:
        sys.settrace(before)
    assert value == 7


def test_only_the_frame_that_waits_is_written() -> None:
    def recursive(depth: int) -> tuple[Any, ...]:
        x = depth
        inner = recursive(depth - 1) if depth else ()
        if depth == 1:
            for _ in turns(2, x=7):
                pass
        return (x, *inner)

    assert recursive(2) == (2, 7, 0)


def test_other_variables_are_left_as_they_are() -> None:
    x, y, z = 0, [1], Thing()
    kept = z

    def inner() -> Any:
        return y

    for _ in turns(2, x=7):
        pass
    assert (x, inner() is y, z is kept) == (7, True, True)


def test_a_name_that_is_not_there_is_refused() -> None:
    frame = here()
    with pytest.raises(LookupError, match="has no variable 'nope'"):
        write(frame, "nope", 7)
    assert "nope" not in globals()


def test_an_attribute_is_no_variable() -> None:
    thing = Thing()
    thing.rate = 1  # type: ignore[attr-defined]
    with pytest.raises(LookupError, match="rate"):
        write(here(), "rate", 7)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_bound_names_are_read_and_others_are_left_out() -> None:
    x, y = 1, 2

    def inner() -> Any:
        return y

    if x > 5:
        later = 0  # noqa: F841
    assert read(here(), ["x", "y", "later", "nowhere", "CASES"]) == {"x": 1, "y": 2, "CASES": CASES}
    assert inner() == 2


def test_a_class_body_hides_the_globals_of_its_names() -> None:
    seen: list[Any] = []
    namespace = {"read": read, "here": here, "seen": seen, "x": 1, "y": 2}
    exec("class Body:\n    x = 3\n    seen.append(read(here(), ['x', 'y']))", namespace)
    assert seen == [{"x": 3, "y": 2}]


# -- nothing stays alive ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer keeps variables alive by itself")
@pytest.mark.parametrize("writing", [False, True], ids=["read", "write"])
def test_no_variable_outlives_its_name(writing: bool) -> None:
    gc.disable()
    try:
        x, y = Thing(), Thing()
        of_x, of_y = weakref.ref(x), weakref.ref(y)
        if writing:
            write(here(), "x", 7)
        else:
            read(here(), ["x"])
        x = y = None  # type: ignore[assignment]
        assert (of_x(), of_y(), x, y) == (None, None, None, None)
    finally:
        gc.enable()


def test_what_locals_returned_stays_full() -> None:
    x, y = 1, 2
    mine = locals()
    read(here(), ["x"])
    assert (mine["x"], mine["y"]) == (1, 2)
    write(here(), "x", 7)
    assert (x, y, mine["y"]) == (7, 2, 2)


def test_what_exec_left_beside_the_variables_stays() -> None:
    x = 1
    if sys.version_info < (3, 13):
        exec("beside = 5")
        read(here(), ["x"])
        write(here(), "x", 7)
        assert locals()["beside"] == 5
        assert x == 7


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="PEP 667 writes one variable")
def test_a_free_variable_that_another_thread_changes_meanwhile_is_kept() -> None:
    x = counted = 0
    lost: list[int] = []
    stopping = threading.Event()

    def count() -> None:
        nonlocal counted
        mine = 0
        while not stopping.is_set():  # other threads run at calls alone
            if counted != mine:
                lost.append(mine)
            mine += 1
            counted = mine

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=count)
    thread.start()
    for k in range(5000):
        write(here(), "x", k)
    stopping.set()
    thread.join()
    sys.setswitchinterval(before)
    assert (x, lost) == (4999, [])
