"""What an object leads to, found without running any code of its own (rule 2); knows no walk and no key.

Objects are read by their tables alone, and types are compared by identity.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import functools
import gc
import itertools
import operator
import pathlib
import random
import re
import types
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xxhash

from resumable.data.rng.static_attributes import (
    class_table,
    order_of,
    package_of,
    qualname_of,
    slots_of,
    table_of_instance,
)

MAX_ITEMS = 256  # a longer container is data, not a list of transforms

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
_WORDS = (type(None), bool, int, float, complex, str, bytes)
_PATHS = (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)
_TIMES = (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone)
_OTHERS = (bytearray, memoryview, range, slice, re.Pattern, decimal.Decimal, fractions.Fraction, uuid.UUID)
# By identity: to look a type up in a set would run the `__hash__` of a metaclass.
_PLAIN = frozenset(map(id, (*_WORDS, *_PATHS, *_TIMES, *_OTHERS, torch.Tensor, torch.Size, np.ndarray)))
_SPOKEN = frozenset(map(id, _WORDS))
_OPAQUE = (
    *(torch.Tensor, torch.dtype, torch.device, np.ndarray, np.generic, np.dtype, random.SystemRandom),
    *(types.ModuleType, types.CodeType, types.FrameType, types.TracebackType, weakref.ReferenceType),
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType),
    *(types.WrapperDescriptorType, types.ClassMethodDescriptorType),
)
_SEQUENCES = (list, tuple, collections.deque)
_SETS = (set, frozenset)
_WRAPPERS = (staticmethod, classmethod, property)
_CONTAINERS = (dict, *_SEQUENCES, *_SETS)
# Of these, nothing but the content counts.
_BARE = frozenset(map(id, (*_CONTAINERS, collections.OrderedDict, collections.Counter)))
_LIGHT = _BARE | frozenset(map(id, (types.FunctionType, types.MethodType, types.CellType, *_WRAPPERS)))

# Packages whose classes draw from no generator of their own, and machinery that leads everywhere.
_LIBRARIES = frozenset({"builtins", "torch", "typing", "collections", "abc", "numpy", "functools", "types", "enum"})
_MACHINERY = frozenset({"logging", "threading", "_thread", "asyncio", "multiprocessing", "concurrent", "resumable"})
_CLOSED = _LIBRARIES | _MACHINERY

Child = tuple[str, Any]


def is_passed_by(item: Any) -> bool:
    """Whether nothing is to be looked for in the object."""
    kind = type(item)
    if id(kind) in _PLAIN:
        return True
    if id(kind) in _BARE:
        return _holds_data(item)
    if issubclass(kind, _OPAQUE):
        return True
    return package_of(item) in _CLOSED if issubclass(kind, type) else package_of(kind) in _MACHINERY


def is_generator(item: Any) -> bool:
    """Whether the object is a generator that gets a key."""
    return issubclass(type(item), _GENERATORS)


def table_of(item: Any) -> Mapping[str, Any] | None:
    """The attributes of the object; None where it has no table of them, and of code, which nobody rebinds."""
    return None if id(type(item)) in _LIGHT or issubclass(type(item), type) else table_of_instance(item)


def global_streams() -> tuple[Any, ...]:
    """What is no private generator."""
    numpys = getattr(np.random.mtrand, "_rand", None)
    return (
        torch.default_generator,
        *(numpys, getattr(numpys, "_bit_generator", None)),
        getattr(random, "_inst", None),
        *torch.cuda.default_generators,
    )


def step(item: Any) -> int:
    """How much farther away than the object its children are: attributes are near, items of long containers far."""
    return 1 if (length := _length(item)) is None else 1 + length.bit_length()


def effort(item: Any) -> int:
    """The share of the bound that a look at the object takes: containers, of which data is made, take little."""
    return 1 if id(type(item)) in _LIGHT else 8


def children(item: Any) -> Iterator[Child]:
    """What the object leads to, by names that are the same in every process."""
    kind = type(item)
    for sorts, look in _LOOKS:
        if issubclass(kind, sorts):
            yield from look(item)
            break
    if id(kind) not in _BARE and not issubclass(kind, _SELF_CONTAINED):
        yield from _of_object(item)


def streams_apart(found: dict[str, Any]) -> dict[str, Any]:
    """Without bit generators that drive a generator found, and without NumPy generators over the global stream."""
    driving = {path: _bit_generator(generator) for path, generator in found.items()}
    owned = {id(bits) for path, bits in driving.items() if bits is not found[path]}
    outside = set(map(id, global_streams()))
    return {
        path: generator
        for path, generator in found.items()
        if id(driving[path]) not in outside and not (driving[path] is generator and id(generator) in owned)
    }


def _bit_generator(generator: Any) -> Any:
    """What makes the numbers of a NumPy generator; of others the generator itself."""
    if issubclass(type(generator), np.random.Generator):
        getter: Any = np.random.Generator.__dict__["bit_generator"]
        return getter.__get__(generator)
    if issubclass(type(generator), np.random.RandomState):
        return object.__getattribute__(generator, "_bit_generator")
    return generator


def _length(item: Any) -> int | None:
    if id(type(item)) in _BARE:
        return len(item)
    sort = next((sort for sort in _CONTAINERS if issubclass(type(item), sort)), None)
    return None if sort is None else sort.__len__(item)


# -- containers -------------------------------------------------------------------------------------------------------


def _of_mapping(item: Any) -> Iterable[Child]:
    pairs = enumerate(_values(item, dict.items))
    return sorted(((_name_of(key, number), child) for number, (key, child) in pairs), key=operator.itemgetter(0))


def _of_sequence(item: Any) -> Iterable[Child]:
    sort: Any = next(sort for sort in _SEQUENCES if issubclass(type(item), sort))
    return ((str(number), child) for number, child in enumerate(_values(item, sort.__iter__)))


def _of_set(item: Any) -> Iterator[Child]:
    """The members by type and number, in an order that does not depend on hashes or addresses."""
    sort: Any = next(sort for sort in _SETS if issubclass(type(item), sort))
    members = [value for value in _values(item, sort.__iter__) if not is_passed_by(value)]
    if len(members) > 1:
        members.sort(key=lambda member: _first_described(_Same(member)))
    numbers: collections.Counter[str] = collections.Counter()
    for member in members:
        name = qualname_of(type(member))
        yield f"{name}.{numbers[name]}", member
        numbers[name] += 1


def _holds_data(item: Any) -> bool:
    """Whether one of Python's own containers holds plain values alone, or more than transforms would be."""
    values = item.values() if issubclass(type(item), dict) else item
    return len(item) > MAX_ITEMS or _PLAIN.issuperset(map(id, map(type, values)))


def _values(item: Any, read: Callable[[Any], Iterable[Any]]) -> list[Any]:
    return list(read(item)) if (_length(item) or 0) <= MAX_ITEMS else []


def _name_of(key: Any, number: int) -> str:
    if issubclass(type(key), str):
        return str.__str__(key)
    return repr(key) if id(type(key)) in _SPOKEN else f"{qualname_of(type(key))}#{number}"


class _Same:
    """An object that is equal to itself alone, whatever it says of that."""

    __slots__ = ("item",)

    def __init__(self, item: Any) -> None:
        self.item = item

    def __hash__(self) -> int:
        return id(self.item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.item is self.item


@functools.lru_cache(maxsize=4096)
def _first_described(member: _Same) -> str:
    """What tells the member of a set from its fellows, as it was at the first look: states move on with each draw."""
    return _described(member.item, levels=3)


def _described(item: Any, *, levels: int) -> str:
    kind = type(item)
    name = f"{package_of(kind)}.{qualname_of(kind)}"
    if id(kind) in _SPOKEN:
        return f"{name} {item!r:.200}"
    if is_generator(item):
        return f"{name} {_state(item)}"
    if levels == 0 or is_passed_by(item):
        return name
    parts = (
        f"{child_name}={_described(child, levels=levels - 1)}"
        for child_name, child in children(item)
        if not issubclass(type(child), type)
    )
    own = f" {item.__code__.co_qualname}:{item.__code__.co_firstlineno}" if kind is types.FunctionType else ""
    return f"{name}{own}({';'.join(itertools.islice(parts, 8))})"


def _state(generator: Any) -> str:
    bits = _bit_generator(generator)
    if issubclass(type(bits), np.random.BitGenerator):
        return xxhash.xxh3_128_hexdigest(repr(sorted(_flat(bits.state))).encode())
    if issubclass(type(bits), torch.Generator):
        return xxhash.xxh3_128_hexdigest(torch.Generator.get_state(bits).numpy().tobytes())
    return xxhash.xxh3_128_hexdigest(repr(random.Random.getstate(bits)).encode())


def _flat(state: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value)


# -- code -------------------------------------------------------------------------------------------------------------


def _of_function(function: types.FunctionType) -> Iterator[Child]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        yield from ((name, content) for _, content in _of_cell(cell))
    yield "defaults", function.__defaults__
    yield "kwdefaults", function.__kwdefaults__
    yield from _of_table(function)  # of a decorated one `__wrapped__`
    yield from _named_globals(function.__code__, function.__globals__)


def _of_cell(cell: types.CellType) -> Iterator[Child]:
    try:
        yield "contents", cell.cell_contents
    except ValueError:  # a variable not assigned yet
        return


def _of_suspended(item: types.GeneratorType[Any, Any, Any]) -> Iterator[Child]:
    frame = item.gi_frame
    if frame is not None:
        yield from sorted(frame.f_locals.items())
        yield from _named_globals(frame.f_code, frame.f_globals)
    yield "yieldfrom", item.gi_yieldfrom


def _named_globals(code: types.CodeType, names: dict[str, Any]) -> Iterator[Child]:
    for name in _names_in(code):
        value = dict.get(names, name)
        if is_generator(value):
            yield f"globals.{name}", value


def _names_in(code: types.CodeType) -> Iterator[str]:
    """The names that the code reads, and those of the functions that are written inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            yield from _names_in(constant)


def _of_class(cls: type) -> Iterator[Child]:
    """The generators that its code names, then its attributes and its functions."""
    table = class_table(cls)
    for value in table.values():
        for function in _functions_in(value):
            yield from _named_globals(function.__code__, function.__globals__)
    for name, value in table.items():
        if not (name[:2] == name[-2:] == "__") or issubclass(type(value), (types.FunctionType, *_WRAPPERS)):
            yield name, value


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    if type(value) is types.FunctionType:
        yield value
    elif issubclass(type(value), _WRAPPERS):
        for _, inner in slots_of(value):
            yield from _functions_in(inner)


# -- objects ----------------------------------------------------------------------------------------------------------


def _of_object(item: Any) -> Iterator[Child]:
    yield from _of_table(item)
    yield from slots_of(item)
    for cls in order_of(type(item)):
        if package_of(cls) not in _LIBRARIES:
            yield f"class {qualname_of(cls)}", cls


def _of_table(item: Any) -> list[Child]:
    named = enumerate((table_of_instance(item) or {}).items())
    return sorted(((_name_of(key, number), child) for number, (key, child) in named), key=operator.itemgetter(0))


_SELF_CONTAINED = (
    *(types.FunctionType, types.GeneratorType, types.BuiltinMethodType, types.CellType, types.MappingProxyType, type),
)
_LOOKS: tuple[tuple[Any, Any], ...] = (
    (dict, _of_mapping),
    (_SEQUENCES, _of_sequence),
    (_SETS, _of_set),
    (types.MappingProxyType, lambda item: (("mapping", inner) for inner in gc.get_referents(item))),
    (types.FunctionType, _of_function),
    (types.CellType, _of_cell),
    (types.GeneratorType, _of_suspended),
    ((types.BuiltinMethodType, types.MethodWrapperType), lambda item: (("self", item.__self__),)),
    (type, _of_class),
)
