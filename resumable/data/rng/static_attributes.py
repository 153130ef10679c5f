"""What Python itself knows of an object, read without running any code of the object; knows nothing of generators.

Nothing here evaluates a property, calls a method of the object or asks it for an attribute: the tables of instances and
classes are read by the descriptors of Python itself, whatever a metaclass says.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

order_of: Any = type.__dict__["__mro__"].__get__
class_table: Any = type.__dict__["__dict__"].__get__
_module_of: Any = type.__dict__["__module__"].__get__
qualname_of: Any = type.__dict__["__qualname__"].__get__


def table_of_instance(item: Any) -> Mapping[str, Any] | None:
    """The attributes of an instance; None where it has no table of them, or shows another in its place."""
    for cls in order_of(type(item)):
        own = class_table(cls).get("__dict__")
        if own is not None:
            real = issubclass(type(own), (types.GetSetDescriptorType, types.MemberDescriptorType))
            found = own.__get__(item) if real else None
            return found if type(found) is dict else None
    return None


def package_of(cls: type) -> str:
    """The top of the path by which the module of a class is imported; empty where the class does not say."""
    try:
        module = _module_of(cls)
    except AttributeError:
        return ""
    return module.partition(".")[0] if type(module) is str else ""


def slots_of(item: Any) -> Iterator[tuple[str, Any]]:
    """The slots of an instance, and what Python's own types keep in such: a partial, a method, a property."""
    for cls in order_of(type(item)):
        for name, value in class_table(cls).items():
            if type(value) is types.MemberDescriptorType and name not in ("__dict__", "__doc__"):
                try:
                    yield name, value.__get__(item)
                except AttributeError:  # not filled yet
                    continue
