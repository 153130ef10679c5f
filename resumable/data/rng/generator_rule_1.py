"""Rule 1: how the first versions searched for random generators. Never changed, since old runs go on by it.

It reads attributes as usual, which may run code of the objects. Rule 2 runs none.
"""

from __future__ import annotations

import functools
import operator
import random
import types
from collections.abc import Iterable, Iterator
from typing import TypeGuard

import numpy as np
import torch

from resumable.data.object_walk import Attributes, Child
from resumable.data.rng.generator_rule import AnyGenerator, GeneratorRule

MAX_DEPTH = 8
MAX_OBJECTS = 2000
MAX_ITEMS = 256  # a longer list is data, not a list of transforms

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range, torch.Tensor, np.ndarray})
_OPAQUE = (torch.Tensor, np.ndarray, np.generic, types.ModuleType, type, random.SystemRandom)


def _is_skipped(item: object) -> bool:
    return type(item) in _PLAIN or isinstance(item, _OPAQUE)


def _is_generator(item: object) -> TypeGuard[AnyGenerator]:
    return isinstance(item, _GENERATORS)


def _attributes(item: object) -> Attributes | None:
    return vars(item) if hasattr(item, "__dict__") else None


def _global_streams() -> tuple[object, ...]:
    return torch.default_generator, getattr(np.random.mtrand, "_rand", None), getattr(random, "_inst", None)


def _children(item: object) -> Iterator[Child]:
    if isinstance(item, dict):
        if len(item) <= MAX_ITEMS:
            yield from _by_name(item.items())
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


def _by_name(items: Iterable[tuple[object, object]]) -> list[Child]:
    return sorted(((str(key), child) for key, child in items), key=operator.itemgetter(0))


def _of_function(function: types.FunctionType) -> Iterator[Child]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable not assigned yet
            continue
    yield "defaults", function.__defaults__
    yield "kwdefaults", function.__kwdefaults__
    yield from _named_globals(function)


def _named_globals(function: types.FunctionType) -> Iterator[Child]:
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, _GENERATORS):
            yield f"globals.{name}", value


def _of_object(item: object) -> Iterator[Child]:
    if hasattr(item, "__dict__"):
        yield from _by_name(vars(item).items())
    for cls in type(item).__mro__:
        if cls.__module__.split(".")[0] not in {"builtins", "torch", "typing", "collections", "abc"}:
            yield from _of_class(item, cls)


def _of_class(item: object, cls: type) -> Iterator[Child]:
    for name, value in vars(cls).items():
        if isinstance(value, _GENERATORS):
            yield name, value
        elif isinstance(value, types.MemberDescriptorType):  # a slot
            yield name, getattr(item, name, None)
        elif isinstance(value, types.FunctionType):
            yield from _named_globals(value)


RULE = GeneratorRule(
    is_wanted=_is_generator,
    is_skipped=_is_skipped,
    children=_children,
    max_effort=MAX_OBJECTS,
    max_depth=MAX_DEPTH,
    attributes=_attributes,
    left_out=_global_streams,
)
