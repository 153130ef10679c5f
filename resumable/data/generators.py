"""Private random generators inside datasets, transforms, collate functions and samplers; knows nothing of keys."""

from __future__ import annotations

import functools
import operator
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

AnyGenerator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
Found: TypeAlias = dict[str, AnyGenerator]

MAX_DEPTH = 8
MAX_OBJECTS = 2000
MAX_ITEMS = 256  # a longer list is data, not a list of transforms
MAX_TABLES = 32

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range, torch.Tensor, np.ndarray})
_OPAQUE = (torch.Tensor, np.ndarray, np.generic, types.ModuleType, type, random.SystemRandom)


def find_generators(*roots: Any, leave_out: tuple[Any, ...] = ()) -> Found:
    """Every private generator reachable from `roots`, by path; paths do not depend on the order of creation.

    Looks through attributes, short lists and dicts, partials, methods, closures, defaults, class attributes, and the
    module variables that a function names. Bounded in depth and count, safe with cycles. The three global streams
    (also under another name) are not private and are left out, and so is everything under `leave_out`.
    """
    return _walk(roots, leave_out)[0]


class Finder:
    """`find_generators` for the same roots again and again: walks anew only when an attribute was rebound."""

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._found: Found = {}
        self._tables: list[Mapping[str, Any]] = []
        self._seen: list[Any] | None = None

    def find(self) -> Found:
        """The private generators as of now; microseconds where nothing was rebound."""
        look = self._look()
        if self._seen is None or len(look) != len(self._seen) or not all(map(operator.is_, look, self._seen)):
            self._found, self._tables = _walk(self._roots, ())
            self._seen = self._look()
        return self._found

    def _look(self) -> list[Any]:
        return [value for table in self._tables for value in table.values() if type(value) not in _PLAIN]


def _walk(roots: tuple[Any, ...], leave_out: tuple[Any, ...]) -> tuple[Found, list[Mapping[str, Any]]]:
    found: Found = {}
    tables: list[Mapping[str, Any]] = []
    seen = {id(item) for item in (*leave_out, *_global_streams())}
    waiting = deque((str(number), root, 0) for number, root in enumerate(roots))
    while waiting and len(seen) < MAX_OBJECTS:
        path, item, depth = waiting.popleft()
        if type(item) in _PLAIN or id(item) in seen or isinstance(item, _OPAQUE):
            continue
        seen.add(id(item))
        if isinstance(item, _GENERATORS):
            found[path] = item
        elif depth < MAX_DEPTH:
            if len(tables) < MAX_TABLES and hasattr(item, "__dict__"):
                tables.append(vars(item))
            waiting.extend((f"{path}.{name}", child, depth + 1) for name, child in _children(item))
    return found, tables


def _global_streams() -> tuple[Any, ...]:
    return torch.default_generator, getattr(np.random.mtrand, "_rand", None), getattr(random, "_inst", None)


def _children(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, dict):
        if len(item) <= MAX_ITEMS:
            yield from sorted(((str(key), child) for key, child in item.items()), key=operator.itemgetter(0))
    elif isinstance(item, list | tuple):
        if len(item) <= MAX_ITEMS:
            yield from ((str(number), child) for number, child in enumerate(item))
    elif isinstance(item, functools.partial):
        yield from (("func", item.func), ("args", item.args), ("keywords", item.keywords))
    elif isinstance(item, types.MethodType):
        yield from (("self", item.__self__), ("func", item.__func__))
    elif isinstance(item, types.FunctionType):
        yield from _of_function(item)
    elif isinstance(item, types.GeneratorType):
        frame = item.gi_frame
        yield from sorted(frame.f_locals.items()) if frame else ()
    else:
        yield from _of_object(item)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable not assigned yet
            continue
    yield "defaults", function.__defaults__
    yield "kwdefaults", function.__kwdefaults__
    yield from _named_globals(function)


def _named_globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, _GENERATORS):
            yield f"globals.{name}", value


def _of_object(item: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(item, "__dict__"):
        yield from sorted(((str(key), child) for key, child in vars(item).items()), key=operator.itemgetter(0))
    for cls in type(item).__mro__:
        if cls.__module__.split(".")[0] not in {"builtins", "torch", "typing", "collections", "abc"}:
            yield from _of_class(item, cls)


def _of_class(item: Any, cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if isinstance(value, _GENERATORS):
            yield name, value
        elif isinstance(value, types.MemberDescriptorType):  # a slot
            yield name, getattr(item, name, None)
        elif isinstance(value, types.FunctionType):
            yield from _named_globals(value)
