"""Take containers apart: modules, optimizers and whatever else has a state of its own become objects by name.

The member `a` of a dict that was passed as `opts` is the object `opts.a`. The state of the dict holds that name in its
place.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import Parameter

from resumable.errors import StateError
from resumable.state.codec.named_tuples import fields_of
from resumable.state.codec.tree import PartName
from resumable.state.objects.adapter import unwrapped
from resumable.state.objects.plain.attributes import Attributes, is_frozen, is_plain
from resumable.state.objects.plain.in_place import MAPPINGS, SEQUENCES
from resumable.state.objects.stateful import is_stateful
from resumable.state.tensors.number_lists import is_of_numbers
from resumable.utils.messages import quoted

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
# Most items of containers, which need no closer look.
_LEAVES = frozenset({type(None), bool, int, float, str, bytes, Tensor, np.ndarray})
_VALUES = (*_LEAVES, Parameter, set)  # two of them that are one object are stored twice, as parts of containers are

Keys = tuple[object, ...]


class Given:
    """All objects of a program by name: those that were passed, and those in containers and attributes."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._held: list[object] = []  # so that no `id` is used again

    @property
    def targets(self) -> dict[str, Any]:
        """Return the objects of the program itself by name: in the place of `attributes(x)` that is x."""
        return {name: each.target if isinstance(each, Attributes) else each for name, each in self.objects.items()}

    def set_name(self, name: str, target: object) -> None:
        """Set the name of an object, and of what it wraps, unless they have one."""
        for each in (target, _inner(target)):
            self._names.setdefault(id(each), name)
            self._held.append(each)

    def name_of(self, value: object) -> str | None:
        """Return the name of an object with a state of its own; None for any other value."""
        return self._names.get(id(value)) or self._names.get(id(_inner(value)))

    def placed(self, name: str, live: object) -> object:
        """Return the object of this name, to be put where `live` is: that itself where it is the object.

        Raises:
            ValueError: No object was passed under this name.
        """
        if self._names.get(id(live)) == name:
            return live
        if name not in self.objects:
            raise ValueError(f"the checkpoint names an object {name!r}, which was not passed")
        found = self.objects[name]
        return found.target if isinstance(found, Attributes) else found

    def named(self, tree: Any) -> Any:
        """Return a tree with names in the place of objects; containers without any are not copied."""
        return self._named(tree, set())

    def _named(self, tree: Any, inside: set[int]) -> Any:
        if type(tree) in _LEAVES or id(tree) in inside:  # the codec refuses cycles
            return tree
        name = self._names.get(id(tree))
        if name is not None:
            return PartName(name)
        if not is_container(tree) or (type(tree) is list and is_of_numbers(tree)):
            return tree
        inside.add(id(tree))
        before = [child for _, child in _children(tree)]
        after = [self._named(child, inside) for child in before]
        inside.discard(id(tree))
        same = all(one is other for one, other in zip(before, after, strict=True))
        return tree if same else _rebuilt(tree, after)


def _inner(value: object) -> object:
    return value.target if isinstance(value, Attributes) else unwrapped(value)


def taken_apart(objects: Mapping[str, object]) -> Given:
    """Return all objects by name. One that has a name already is stored once, under that name.

    Raises:
        StateError: A container contains itself, or no name can be made of the keys that lead to an object.
    """
    given = Given()
    for name, target in objects.items():
        if not is_container(target) and type(target) not in _VALUES:
            given.set_name(name, target)
    for name, target in objects.items():
        given.objects[name] = target
        for keys, part in _parts(target, (name,), set(), set(), of_attributes=isinstance(target, Attributes)):
            found = given.name_of(part)
            if found is None:
                found = _name(keys, part, given.objects)
                given.objects[found] = part
            given.set_name(found, part)  # also by a wrapper that only this container holds
    return given


def is_container(value: object) -> bool:
    """Return whether a value is a container that may hold objects."""
    return type(value) in (*MAPPINGS, *SEQUENCES, tuple) or (isinstance(value, tuple) and _fields(value) is not None)


def _fields(value: tuple[object, ...]) -> tuple[str, ...] | None:
    fields = fields_of(type(value))
    return fields if fields is not None and len(fields) == tuple.__len__(value) else None


def _children(container: Any) -> Iterable[tuple[object, Any]]:
    """Return the items of a container with their keys: positions, or names of fields."""
    if type(container) in MAPPINGS:
        return list(container.items())
    fields = _fields(container) if isinstance(container, tuple) else None
    return zip(fields, tuple.__iter__(container), strict=True) if fields else enumerate(container)


def _parts(
    value: Any, keys: Keys, inside: set[int], seen: set[int], *, of_attributes: bool
) -> Iterator[tuple[Keys, object]]:
    """Yield the objects in a container or among attributes, with the keys that lead there.

    With `of_attributes`, dataclasses in it are objects by their attributes, too.
    """
    place = id(value.target) if isinstance(value, Attributes) else id(value)
    if place in inside and not isinstance(value, Attributes):
        raise StateError(f"{_shown(keys)}: this {type(value).__name__} contains itself", "break the cycle")
    if place in seen or (type(value) is list and is_of_numbers(value)):
        return
    inside.add(place)
    seen.add(place)
    for key, found in _items(value):
        if type(found) in _LEAVES:
            continue
        child = Attributes(found, ()) if of_attributes and _is_filled_dataclass(found) else found
        if isinstance(child, Attributes) or (not is_container(child) and is_stateful(unwrapped(child))):
            yield (*keys, key), child
        if isinstance(child, Attributes) or is_container(child):
            below = of_attributes or isinstance(child, Attributes)
            yield from _parts(child, (*keys, key), inside, seen, of_attributes=below)
    inside.discard(place)


def _is_filled_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and is_plain(value) and not is_frozen(value) and not is_stateful(value)


def _items(value: Any) -> Iterable[tuple[object, Any]]:
    if isinstance(value, Attributes):
        return value.values().items()
    return _children(value) if is_container(value) else ()


def _rebuilt(container: Any, items: list[Any]) -> Any:
    if type(container) is collections.defaultdict:
        return collections.defaultdict(container.default_factory, zip(container, items, strict=True))
    if type(container) in MAPPINGS:
        return type(container)(zip(container, items, strict=True))
    if type(container) is collections.deque:
        return collections.deque(items, container.maxlen)
    return items if type(container) is list else tuple.__new__(type(container), items)


def _name(keys: Keys, part: object, taken: Mapping[str, object]) -> str:
    """Return the name of an object that these keys lead to."""
    for depth, key in enumerate(keys[1:], 1):
        text = str(key) if type(key) in (int, str) else ""
        if not text.isidentifier() and not _NUMBER.fullmatch(text):
            raise StateError(
                f"{_shown(keys[:depth])}: the key {quoted(repr(key))} leads to a {type(part).__name__}, and cannot be "
                "part of its name",
                "use keys that are identifiers or whole numbers, or pass the object under its own name",
            )
    name = _shown(keys)
    if name in taken:
        raise StateError(f"{name}: two keys give one name", "use other keys in this container")
    return name


def _shown(keys: Keys) -> str:
    return ".".join(map(str, keys))
