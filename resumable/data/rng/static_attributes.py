"""Read the attributes of objects and classes without running any code of theirs, like `inspect.getattr_static`.

Nothing here evaluates a property, calls a method of the object, or goes through its `__getattr__`: the tables of
instances and classes are read by the descriptors of Python itself, whatever a metaclass defines.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TypeGuard, TypeVar

mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
class_attributes: Callable[[type], Mapping[str, object]] = type.__dict__["__dict__"].__get__
qualname_of: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_module_of: Callable[[type], object] = type.__dict__["__module__"].__get__

# By identity: to look a type up in a set would run the `__hash__` of a metaclass.
NAMED_BY_REPR = frozenset(map(id, (type(None), bool, int, float, complex, str, bytes)))

T = TypeVar("T")


def is_a(item: object, *kinds: type[T]) -> TypeGuard[T]:
    """Return whether the real type of an object is among `kinds`, whatever its `__class__` returns."""
    return issubclass(type(item), kinds)


def instance_attributes(item: object) -> dict[str, object] | None:
    """Return the `__dict__` of an instance; None where it has none, or shows another object in its place."""
    for cls in mro_of(type(item)):
        own = class_attributes(cls).get("__dict__")
        if own is not None:
            if not is_a(own, types.GetSetDescriptorType) and not is_a(own, types.MemberDescriptorType):
                return None
            found = own.__get__(item)
            return found if type(found) is dict else None
    return None


def module_of(cls: type) -> str:
    """Return the name of the module that a class is defined in; empty where it has none."""
    try:
        module = _module_of(cls)
    except AttributeError:
        return ""
    return module if type(module) is str else ""


def package_of(cls: type) -> str:
    """Return the top-level package that a class is defined in; empty where the class has no module."""
    return module_of(cls).partition(".")[0]


def slots_of(item: object) -> Iterator[tuple[str, object]]:
    """Yield the slots of an instance, and those of Python's own types: of a partial, a method, a property."""
    for cls in mro_of(type(item)):
        for name, value in class_attributes(cls).items():
            if type(value) is types.MemberDescriptorType and name not in ("__dict__", "__doc__"):
                try:
                    yield name, value.__get__(item)
                except AttributeError:  # not filled yet
                    continue


def named_attributes(item: object) -> list[tuple[str, object]]:
    """Return the attributes of an instance, sorted by name."""
    named = enumerate((instance_attributes(item) or {}).items())
    return sorted(((name_of(key, number), child) for number, (key, child) in named), key=operator.itemgetter(0))


def name_of(key: object, number: int) -> str:
    """Return a name for the key of a mapping that is the same in every process; `number` is its place in the order."""
    if is_a(key, str):
        return str.__str__(key)
    return repr(key) if id(type(key)) in NAMED_BY_REPR else f"{qualname_of(type(key))}#{number}"
