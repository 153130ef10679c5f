"""Rule 2: search for random generators without running any code of the objects. Never changed, since runs go on by it.

Objects are read by their tables alone (`static_attributes.py`), and types are compared by identity. Keys and the walk
itself are elsewhere.
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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
import xxhash

from resumable.data.object_walk import Attributes, Child
from resumable.data.rng.code_references import (
    WRAPPERS,
    cell_references,
    class_references,
    function_references,
    suspended_references,
)
from resumable.data.rng.generator_rule import AnyGenerator, Found, GeneratorRule, is_generator
from resumable.data.rng.static_attributes import (
    NAMED_BY_REPR,
    instance_attributes,
    is_a,
    mro_of,
    name_of,
    named_attributes,
    package_of,
    qualname_of,
    slots_of,
)

MAX_ITEMS = 256  # a longer container is data, not a list of transforms

_WORDS = (type(None), bool, int, float, complex, str, bytes)
_PATHS = (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)
_TIMES = (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone)
_OTHERS = (bytearray, memoryview, range, slice, re.Pattern, decimal.Decimal, fractions.Fraction, uuid.UUID)
# By identity: to look a type up in a set would run the `__hash__` of a metaclass.
_PLAIN = frozenset(map(id, (*_WORDS, *_PATHS, *_TIMES, *_OTHERS, torch.Tensor, torch.Size, np.ndarray)))
_OPAQUE = (
    *(torch.Tensor, torch.dtype, torch.device, np.ndarray, np.generic, np.dtype, random.SystemRandom),
    *(types.ModuleType, types.CodeType, types.FrameType, types.TracebackType, weakref.ReferenceType),
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType),
    *(types.WrapperDescriptorType, types.ClassMethodDescriptorType),
)
_SEQUENCES = (list, tuple, collections.deque)
_SETS = (set, frozenset)
_CONTAINERS = (dict, *_SEQUENCES, *_SETS)
# Of these, nothing but the content counts.
_BARE = frozenset(map(id, (*_CONTAINERS, collections.OrderedDict, collections.Counter)))
_LIGHT = _BARE | frozenset(map(id, (types.FunctionType, types.MethodType, types.CellType, *WRAPPERS)))

# Packages whose classes draw from no generator of their own, and machinery that leads everywhere.
_LIBRARIES = frozenset({"builtins", "torch", "typing", "collections", "abc", "numpy", "functools", "types", "enum"})
_MACHINERY = frozenset({"logging", "threading", "_thread", "asyncio", "multiprocessing", "concurrent", "resumable"})
_CLOSED = _LIBRARIES | _MACHINERY

T = TypeVar("T")


def _is_skipped(item: object) -> bool:
    kind = type(item)
    if id(kind) in _PLAIN:
        return True
    if _is_bare(item):
        return _holds_data(item)
    if issubclass(kind, _OPAQUE):
        return True
    return package_of(item) in _CLOSED if is_a(item, type) else package_of(kind) in _MACHINERY


def _is_bare(item: object) -> TypeGuard[Collection[object]]:
    return id(type(item)) in _BARE


def _attributes(item: object) -> Attributes | None:
    """Return the attributes of an object; None where it has none, and of code, which nobody rebinds."""
    return None if id(type(item)) in _LIGHT or issubclass(type(item), type) else instance_attributes(item)


def _global_streams() -> tuple[object, ...]:
    numpys = getattr(np.random.mtrand, "_rand", None)
    return (
        torch.default_generator,
        *(numpys, getattr(numpys, "_bit_generator", None)),
        getattr(random, "_inst", None),
        *torch.cuda.default_generators,
    )


def _step(item: object) -> int:
    """Return how much farther away its children are: attributes are near, items of long containers far."""
    return 1 if (length := _length(item)) is None else 1 + length.bit_length()


def _effort(item: object) -> int:
    """Return the share of the bound that one object takes: containers, of which data is made, take little."""
    return 1 if id(type(item)) in _LIGHT else 8


def _children(item: object) -> Iterator[Child]:
    """Yield what an object refers to, by names that are the same in every process."""
    kind = type(item)
    for kinds, references in _REFERENCES:
        if issubclass(kind, kinds):
            yield from references(item)
            break
    if id(kind) not in _BARE and not issubclass(kind, _SELF_CONTAINED):
        yield from _of_object(item)


def _without_duplicates(found: Found) -> Found:
    """Drop bit generators that drive a generator found, and NumPy generators over the global stream."""
    driving = {path: _bit_generator(generator) for path, generator in found.items()}
    owned = {id(bits) for path, bits in driving.items() if bits is not found[path]}
    outside = set(map(id, _global_streams()))
    return {
        path: generator
        for path, generator in found.items()
        if id(driving[path]) not in outside and not (driving[path] is generator and id(generator) in owned)
    }


def _bit_generator(generator: AnyGenerator) -> AnyGenerator:
    """Return what makes the numbers of a NumPy generator; of others the generator itself."""
    if is_a(generator, np.random.Generator):
        bits: AnyGenerator = np.random.Generator.__dict__["bit_generator"].__get__(generator)
        return bits
    if is_a(generator, np.random.RandomState):
        driving: AnyGenerator = object.__getattribute__(generator, "_bit_generator")
        return driving
    return generator


def _length(item: object) -> int | None:
    if _is_bare(item):
        return len(item)
    base = _builtin_base(item, _CONTAINERS)
    return None if base is None else base.__len__(item)


def _builtin_base(item: object, kinds: tuple[type, ...]) -> Any:
    """Return the container of Python that the class of an object is derived from: its methods read the object."""
    return next((kind for kind in kinds if issubclass(type(item), kind)), None)


# -- containers -------------------------------------------------------------------------------------------------------


def _of_mapping(item: object) -> Iterable[Child]:
    pairs = enumerate(_values(item, dict.items))
    return sorted(((name_of(key, number), child) for number, (key, child) in pairs), key=operator.itemgetter(0))


def _of_sequence(item: object) -> Iterable[Child]:
    values = _values(item, _builtin_base(item, _SEQUENCES).__iter__)
    return ((str(number), child) for number, child in enumerate(values))


def _of_set(item: object) -> Iterator[Child]:
    """Yield the members by type and number, in an order that does not depend on hashes or addresses."""
    values = _values(item, _builtin_base(item, _SETS).__iter__)
    members = [value for value in values if not _is_skipped(value)]
    if len(members) > 1:
        members.sort(key=lambda member: _first_description(_Same(member)))
    numbers: collections.Counter[str] = collections.Counter()
    for member in members:
        name = qualname_of(type(member))
        yield f"{name}.{numbers[name]}", member
        numbers[name] += 1


def _holds_data(item: Collection[object]) -> bool:
    """Return whether one of Python's own containers holds plain values alone, or more than transforms would be."""
    values = item.values() if is_a(item, dict) else item
    return len(item) > MAX_ITEMS or _PLAIN.issuperset(map(id, map(type, values)))


def _values(item: object, read: Callable[[Any], Iterable[T]]) -> list[T]:
    return list(read(item)) if (_length(item) or 0) <= MAX_ITEMS else []


class _Same:
    """An object that is equal to itself alone, whatever its `__eq__` returns."""

    __slots__ = ("item",)

    def __init__(self, item: object) -> None:
        self.item = item

    def __hash__(self) -> int:
        return id(self.item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.item is self.item


@functools.lru_cache(maxsize=4096)
def _first_description(member: _Same) -> str:
    """Return what distinguishes a member of a set, as of the first call: later states move on with each draw."""
    return _description(member.item, levels=3)


def _description(item: object, *, levels: int) -> str:
    kind = type(item)
    name = f"{package_of(kind)}.{qualname_of(kind)}"
    if id(kind) in NAMED_BY_REPR:
        return f"{name} {item!r:.200}"
    if is_generator(item):
        return f"{name} {_digest_of_state(item)}"
    if levels == 0 or _is_skipped(item):
        return name
    parts = (
        f"{child_name}={_description(child, levels=levels - 1)}"
        for child_name, child in _children(item)
        if not issubclass(type(child), type)
    )
    own = f" {item.__code__.co_qualname}:{item.__code__.co_firstlineno}" if is_a(item, types.FunctionType) else ""
    return f"{name}{own}({';'.join(itertools.islice(parts, 8))})"


def _digest_of_state(generator: AnyGenerator) -> str:
    bits = _bit_generator(generator)
    if is_a(bits, np.random.BitGenerator):
        return xxhash.xxh3_128_hexdigest(repr(sorted(_flat(bits.state))).encode())
    if is_a(bits, torch.Generator):
        return xxhash.xxh3_128_hexdigest(torch.Generator.get_state(bits).numpy().tobytes())
    return xxhash.xxh3_128_hexdigest(repr(random.Random.getstate(bits)).encode())  # type: ignore[arg-type]


def _flat(state: Mapping[str, object], at: str = "") -> Iterator[tuple[str, str]]:
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value)


def _of_object(item: object) -> Iterator[Child]:
    yield from named_attributes(item)
    yield from slots_of(item)
    for cls in mro_of(type(item)):
        if package_of(cls) not in _LIBRARIES:
            yield f"class {qualname_of(cls)}", cls


_SELF_CONTAINED = (
    *(types.FunctionType, types.GeneratorType, types.BuiltinMethodType, types.CellType, types.MappingProxyType, type),
)
_REFERENCES: tuple[tuple[type | tuple[type, ...], Callable[[Any], Iterable[Child]]], ...] = (
    (dict, _of_mapping),
    (_SEQUENCES, _of_sequence),
    (_SETS, _of_set),
    (types.MappingProxyType, lambda item: (("mapping", inner) for inner in gc.get_referents(item))),
    (types.FunctionType, function_references),
    (types.CellType, cell_references),
    (types.GeneratorType, suspended_references),
    ((types.BuiltinMethodType, types.MethodWrapperType), lambda item: (("self", item.__self__),)),
    (type, class_references),
)

RULE = GeneratorRule(
    is_wanted=is_generator,
    is_skipped=_is_skipped,
    children=_children,
    max_effort=20_000,
    max_depth=64,
    attributes=_attributes,
    left_out=_global_streams,
    step=_step,
    effort=_effort,
    keyed=_without_duplicates,
)
