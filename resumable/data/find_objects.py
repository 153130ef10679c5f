"""Find objects of one class inside other objects, through attributes, items and closures.

One rule of the walk in `object_walk.py`. It reads attributes as usual and stops early. The newest rule for random
generators (`rng/generator_rule_2.py`) also reads classes and slots and runs no code of the objects. Its paths
are frozen.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeGuard, TypeVar

from resumable.data.object_walk import Child, WalkRule, walk

MAX_DEPTH = 6
MAX_OBJECTS = 2000
MAX_ITEMS = 256  # a longer collection is data

_PLAIN = (str, bytes, int, float, complex, range, type, types.ModuleType, type(None))

T = TypeVar("T")


def find_objects(root: object, kind: type[T]) -> list[T]:
    """Return every instance of `kind` that can be reached from `root`, itself included; nothing inside of those."""

    def is_wanted(item: object) -> TypeGuard[T]:
        return isinstance(item, kind)

    def children(item: object) -> Iterator[Child]:
        yield from (("", child) for child in _inside(item))
        yield from (("", value) for value in _module_variables(item) if is_wanted(value))

    rule = WalkRule(
        is_wanted=is_wanted,
        is_skipped=lambda item: isinstance(item, _PLAIN),
        children=children,
        max_effort=MAX_OBJECTS,
        max_depth=MAX_DEPTH,
    )
    return [item for _, item in walk([root], rule).found]


def _inside(item: object) -> Iterator[object]:
    if isinstance(item, Mapping):
        yield from item.values() if len(item) <= MAX_ITEMS else ()
    elif isinstance(item, list | tuple | set | frozenset | deque):
        yield from item if len(item) <= MAX_ITEMS else ()
    elif isinstance(item, types.MethodType):
        yield from (item.__self__, item.__func__)
    elif isinstance(item, functools.partial):
        yield from (item.func, item.args, item.keywords)
    elif isinstance(item, types.FunctionType):
        yield from (item.__defaults__, item.__kwdefaults__)
        for cell in item.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a variable that is not assigned yet
                continue
    elif hasattr(item, "__dict__"):
        yield from list(vars(item).values())


def _module_variables(item: object) -> Iterator[object]:
    """Return the module variables that a function, or the methods of an object, name."""
    functions: list[object] = [item] if isinstance(item, types.FunctionType) else []
    if not functions and hasattr(item, "__dict__"):
        functions = [value for kind in type(item).__mro__ for value in vars(kind).values()]
    for function in functions:
        if isinstance(function, types.FunctionType):
            names = function.__code__.co_names
            yield from (function.__globals__[name] for name in names if name in function.__globals__)
