"""Objects of one class are found wherever other objects keep them, within bounds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from resumable.data.find_objects import MAX_DEPTH, MAX_ITEMS, MAX_OBJECTS, find_objects


class Wanted:
    def __init__(self, inner: object = None) -> None:
        self.inner = inner

    def method(self) -> None:
        pass


class Holder:
    def __init__(self, held: object = None) -> None:
        self.held = held

    def reads(self) -> object:
        return IN_MODULE


IN_MODULE = Wanted()


def closing(held: object) -> Callable[[], object]:
    return lambda: held


def default(held: object) -> Callable[..., object]:
    def function(value: object = held, *, other: object = held) -> object:
        return value, other

    return function


@pytest.mark.parametrize(
    "hold",
    [
        lambda wanted: wanted,
        lambda wanted: {"key": [(wanted,)]},
        lambda wanted: wanted.method,
        lambda wanted: functools.partial(print, wanted),
        closing,
        default,
    ],
)
def test_an_object_is_found_wherever_another_keeps_it(hold: Callable[[Any], object]) -> None:
    wanted = Wanted()
    assert wanted in find_objects([hold(wanted)], Wanted)


def test_module_variables_that_methods_name_are_found() -> None:
    assert find_objects(Holder(), Wanted) == [IN_MODULE]


def test_nothing_inside_a_found_object_is_found_and_cycles_end() -> None:
    outer = Wanted(Wanted())
    circle = [outer]
    circle.append(circle)  # type: ignore[arg-type]
    assert find_objects(circle, Wanted) == [outer]


def test_the_search_ends_at_its_bounds() -> None:
    deep: object = Wanted()
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert find_objects(deep, Wanted)
    assert not find_objects([deep], Wanted)
    assert not find_objects([Wanted()] * (MAX_ITEMS + 1), Wanted)
    many: list[list[list[object]]] = [[[] for _ in range(MAX_ITEMS)] for _ in range(1 + MAX_OBJECTS // MAX_ITEMS)]
    assert not find_objects([many, [[[Wanted()]]]], Wanted)
