"""How the first versions looked for random generators (rule 1); never changed, for runs go on by it.

It asks objects by the usual means, which may run code of theirs: the next rule does not.
"""

from __future__ import annotations

import functools
import operator
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

MAX_DEPTH = 8
MAX_OBJECTS = 2000
MAX_ITEMS = 256  # a longer list is data, not a list of transforms

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range, torch.Tensor, np.ndarray})
_OPAQUE = (torch.Tensor, np.ndarray, np.generic, types.ModuleType, type, random.SystemRandom)


def is_passed_by(item: Any) -> bool:
    """Whether nothing is to be looked for in the object."""
    return type(item) in _PLAIN or isinstance(item, _OPAQUE)


def is_generator(item: Any) -> bool:
    """Whether the object is a generator that gets a key."""
    return isinstance(item, _GENERATORS)


def table_of(item: Any) -> Mapping[str, Any] | None:
    """The attributes of the object; None where it has no table of them."""
    return vars(item) if hasattr(item, "__dict__") else None


def global_streams() -> tuple[Any, ...]:
    """What is no private generator."""
    return torch.default_generator, getattr(np.random.mtrand, "_rand", None), getattr(random, "_inst", None)


def children(item: Any) -> Iterator[tuple[str, Any]]:
    """What the object leads to, by name."""
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
