"""Find objects inside of others, through attributes, items and closures. Independent of their types."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_DEPTH = 6
MAX_OBJECTS = 2000
MAX_ITEMS = 256  # a longer collection is data

_PLAIN = (str, bytes, int, float, complex, range, type, types.ModuleType, type(None))


def find_objects(root: object, wanted: Callable[[Any], bool]) -> list[Any]:
    """Return every object reachable from `root`, itself included, that is `wanted`; do not search inside of those."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting = deque([(root, 0)])
    while waiting and len(seen) < MAX_OBJECTS:
        item, depth = waiting.popleft()
        if id(item) in seen or isinstance(item, _PLAIN):
            continue
        seen.add(id(item))
        if wanted(item):
            found.append(item)
        elif depth < MAX_DEPTH:
            waiting.extend((child, depth + 1) for child in _inside(item))
            waiting.extend((value, depth) for value in _named(item) if wanted(value))
    return found


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
            except ValueError:  # a variable without a value yet
                continue
    elif hasattr(item, "__dict__"):
        yield from list(vars(item).values())


def _named(item: object) -> Iterator[object]:
    """Yield the module variables that a function, or the methods of an object, refer to."""
    functions = [item] if isinstance(item, types.FunctionType) else []
    if not functions and hasattr(item, "__dict__"):
        functions = [value for kind in type(item).__mro__ for value in vars(kind).values()]
    for function in functions:
        if isinstance(function, types.FunctionType):
            names = function.__code__.co_names
            yield from (function.__globals__[name] for name in names if name in function.__globals__)
