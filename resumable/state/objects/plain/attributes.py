"""Plain objects of the user's by their attributes. Runs no property and no code of the object."""

from __future__ import annotations

import enum
import functools
import io
import logging
import os
import sys
import types
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch

from resumable.errors import StateError
from resumable.state.objects.generators import GENERATOR_TYPES

_HEAP_TYPE = 1 << 9  # in `__flags__`: of a class that Python code made
_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, functools.partial, type)
_LEFT_ALONE = (*_CODE, logging.Logger, logging.LoggerAdapter, io.IOBase)
_MAKERS = ("__main__", "types", "argparse")  # of plain objects
_OBJECTS = (torch.nn.Module, torch.optim.Optimizer, *GENERATOR_TYPES)
_VALUES = (dict, list, tuple, set, frozenset, torch.Tensor, np.ndarray)


class Attributes:
    """An object whose attributes are its state; `attributes` makes it."""

    def __init__(self, target: Any, without: Collection[str]) -> None:
        self.target = target
        self.without = frozenset(without)
        self.begun_with = sorted([*self.values(), *self.left_alone()])

    def values(self) -> dict[str, Any]:
        """Return the attributes that are saved, by name."""
        return {name: value for name, value in self._all() if not isinstance(value, _LEFT_ALONE)}

    def left_alone(self) -> list[str]:
        """Return the names of the attributes that hold code, a logger or an open file."""
        return sorted(name for name, value in self._all() if isinstance(value, _LEFT_ALONE))

    def set(self, name: str, value: object) -> None:
        """Set an attribute in the object's own table."""
        slot = _slots(self.target).get(name)
        if slot is not None:
            slot.__set__(self.target, value)
        else:
            vars(self.target)[name] = value

    def delete(self, name: str) -> None:
        """Remove an attribute from the object's own table."""
        slot = _slots(self.target).get(name)
        if slot is not None:
            slot.__delete__(self.target)
        else:
            del vars(self.target)[name]

    def _all(self) -> Iterator[tuple[str, object]]:
        for name, value in _table(self.target):
            if name not in self.without:
                yield name, value


def attributes(target: object, /, *, without: Collection[str] = ()) -> Attributes:
    """Make the attributes of a plain object its state: `Trainer(..., stopping=attributes(stopping))`.

    A resume fills the object in place. Modules, optimizers and other objects among the attributes have a state of their
    own, under names such as `stopping.model`, and so have dataclasses. Attributes that hold code, a logger or an open
    file are left alone.

    Args:
        target: An object of a class of the program, with or without slots; a dataclass, unless it is frozen.
        without: Names of further attributes to leave alone.

    Returns:
        What to pass to `Trainer` in the place of the object.

    Raises:
        StateError: The object has no attributes that can be filled, or lacks one of `without`.
    """
    name = type(target).__name__
    refused = _refusal(target, name)
    if refused is not None:
        raise StateError(f"attributes(...): {refused[0]}", refused[1])
    names = [without] if isinstance(without, str) else list(without)
    missing = sorted({*names} - {name for name, _ in _table(target)})
    if missing:
        raise StateError(f"attributes(...): without={missing!r}: this {name} has no such attribute", "check the names")
    return Attributes(target, names)


def is_frozen(target: object) -> bool:
    """Return whether an object is a frozen dataclass."""
    return bool(getattr(getattr(type(target), "__dataclass_params__", None), "frozen", False))


def is_plain(target: object) -> bool:
    """Return whether the attributes of an object may be its state: no code, and none of torch or Python itself."""
    package = type(target).__module__.partition(".")[0]
    foreign = package in ("torch", "numpy") or (package in sys.stdlib_module_names and package not in _MAKERS)
    values = isinstance(target, (*_LEFT_ALONE, *_OBJECTS, *_VALUES, enum.Enum, os.PathLike))
    return has_attributes(target) and not (foreign or values)


def has_attributes(target: object) -> bool:
    """Return whether an object can have attributes of its own."""
    return hasattr(target, "__dict__") or bool(_slots(target))


def _refusal(target: object, name: str) -> tuple[str, str] | None:
    """Return why the attributes of an object are not its state, and what to do; None where they are."""
    if isinstance(target, type | types.ModuleType):
        return f"{target.__name__} is a {name}, whose values belong to the whole program", "pass an instance"
    if isinstance(target, _OBJECTS) or type(target) in _VALUES:
        return f"a {name} has more state than its attributes", "pass it itself: Trainer(..., name=...)"
    if isinstance(target, _VALUES):
        return f"{name} has items beside its attributes", "keep the items in an attribute of a plain class"
    if is_frozen(target):
        return (
            f"{name} is a frozen dataclass, which nothing can fill",
            "leave it out if it never changes; keep one that is replaced as a plain dict, by dataclasses.asdict()",
        )
    if not has_attributes(target):
        return f"{name} has no attributes", "put it into a plain dict: Trainer(..., values={'best': ...})"
    return None


def _table(target: object) -> Iterator[tuple[str, object]]:
    """Yield the attributes of an object as they stand in its slots and its dict."""
    for name, slot in _slots(target).items():
        try:
            value = slot.__get__(target)
        except AttributeError:  # it was never set
            continue
        yield name, value
    yield from list(getattr(target, "__dict__", {}).items())


def _slots(target: object) -> dict[str, types.MemberDescriptorType]:
    return {
        name: slot
        for kind in reversed(type(target).__mro__)
        if kind.__flags__ & _HEAP_TYPE
        for name, slot in vars(kind).items()
        if type(slot) is types.MemberDescriptorType
    }
