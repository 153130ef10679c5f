"""Read what objects hold without running code of theirs: no property, `__len__`, `__iter__`, `__eq__` or `__repr__`.

Attributes come from instance dicts and slots, items from the built-in containers by the methods of C. Independent of
what is read for.
"""

from __future__ import annotations

import io
import logging
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, cast

MISSING: object = object()
CODE = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType)
PLAIN = (bool, int, float, complex, str, bytes, type(None))

_HEAP_TYPE = 1 << 9  # in `__flags__`: of a class that Python code made
_members: weakref.WeakKeyDictionary[type, tuple[tuple[str, Any], ...]] = weakref.WeakKeyDictionary()
_SEQUENCES = (list, tuple, deque, set, frozenset)
_HANDLES = ("tqdm", "Progress", "Writer", "Logger", "Console", "Live", "Event", "Stream", "Thread", "Lock", "Pool")


def is_a(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Return whether a value is an instance by its type alone: `isinstance` would ask for its `__class__`."""
    return issubclass(type(value), kinds)


def type_of(module: str, *names: str) -> tuple[type, ...]:
    """Return the classes of these names in a module that the program has imported; nothing without it."""
    loaded = sys.modules.get(module)
    found = (getattr(loaded, name, None) for name in names)
    return tuple(each for each in found if isinstance(each, type))


def attributes_of(value: object) -> dict[str, Any]:
    """Return the attributes that an object holds in its dict and its slots."""
    kind = type(value)
    members = _members.get(kind)
    if members is None:
        members = _members[kind] = tuple(_members_of(kind))
    found: dict[str, Any] = {}
    for name, member in members:
        if name == "__dict__":
            found |= member.__get__(value, kind) or {}
            continue
        try:
            found[name] = member.__get__(value, kind)
        except AttributeError:  # not assigned
            continue
    return found


def _members_of(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the slots of a class, and where its instances have their dict."""
    for each in kind.__mro__:
        for name, member in vars(each).items():
            is_slot = type(member) is types.MemberDescriptorType and each.__flags__ & _HEAP_TYPE
            if is_slot or (name == "__dict__" and type(member) is types.GetSetDescriptorType):
                yield name, member


def attribute(value: object, name: str) -> object:
    """Return one attribute, as far as no code of the object's runs for it; `MISSING` otherwise."""
    if is_a(value, types.ModuleType):
        return cast("dict[str, object]", value.__dict__).get(name, MISSING)
    if is_a(value, type):
        return _of_class(cast(type, value), name)
    found = attributes_of(value)
    if name in found:
        return found[name]
    for table in ("_modules", "_parameters", "_buffers"):  # of an `nn.Module`
        inside = found.get(table)
        if type(inside) is dict and name in inside:
            return inside[name]
    return _of_class(type(value), name)


def _of_class(kind: type, name: str) -> object:
    for each in kind.__mro__:
        if name in vars(each):
            value = vars(each)[name]
            return MISSING if hasattr(type(value), "__get__") else value
    return MISSING


def length_of(value: object) -> int | None:
    """Return the number of items of a built-in container; None for any other object."""
    for kind in (*_SEQUENCES, dict):
        if is_a(value, kind):
            return kind.__len__(cast(Any, value))
    return None


def items_of(value: Any, *, ends: int) -> Iterator[tuple[object, object]]:
    """Return the first and the last items of a built-in container with their indices or keys, `ends` of each."""
    length = length_of(value) or 0
    if is_a(value, dict):
        pairs = dict.items(value)
        return chain(islice(pairs, ends), islice(reversed(pairs), min(ends, max(length - ends, 0))))
    kind: Any = next(each for each in _SEQUENCES if is_a(value, each))
    if kind in (set, frozenset):
        return islice(enumerate(kind.__iter__(value)), 2 * ends)
    numbers = chain(range(min(ends, length)), range(max(ends, length - ends), length))
    return ((number, kind.__getitem__(value, number)) for number in numbers)


def submodules(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield a module of torch and those inside of it, each once, by their paths."""
    todo, seen = [("", module)], {id(module)}
    while todo:
        path, each = todo.pop()
        yield path, each
        inside = attributes_of(each).get("_modules")
        for name, child in inside.items() if type(inside) is dict else ():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                todo.append((f"{path}.{name}" if path else name, child))


def is_handle(value: object) -> bool:
    """Return whether this is code, a file, a logger, a bar, a thread or one of this package's own objects."""
    if is_a(value, (*CODE, io.IOBase, logging.Logger)):
        return True
    kind = type(value)
    return any(part in kind.__name__ for part in _HANDLES) or kind.__module__.partition(".")[0] == "resumable"
