"""Named tuples: how they are recognized, and which living type has a stored name. Imports nothing by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from resumable.state.codec.tree import NamedValues


def fields_of(kind: type) -> tuple[str, ...] | None:
    """Return the names of the fields of a named tuple type; None for any other type."""
    if not issubclass(kind, tuple):
        return None
    tables = (vars(each) for each in type.mro(kind))
    fields = next((table["_fields"] for table in tables if "_fields" in table), None)
    return fields if type(fields) is tuple and {*map(type, fields)} <= {str} else None


def name_of(kind: type) -> str:
    """Return the name under which the values of a named tuple type are stored."""
    return f"{kind.__module__}.{kind.__qualname__}"


def named_values(value: tuple[Any, ...]) -> NamedValues | None:
    """Return a named tuple with the names of its type and fields; None for any other value."""
    if type(value) is NamedValues:
        return value
    fields = fields_of(type(value))
    if fields is None or len(fields) != tuple.__len__(value) or getattr(value, "__dict__", None):
        return None  # of a subclass with attributes beside its fields, these would be lost
    return NamedValues.of(name_of(type(value)), fields, tuple.__iter__(value))


class LivingTypes:
    """The named tuple types of this program, by name and fields, as of the first question."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, tuple[str, ...]], type] | None = None

    def restored(self, values: NamedValues, items: Iterable[object], like: object = None) -> tuple[Any, ...]:
        """Return the items as the type that was stored, where the program has it; no code of the type runs.

        The type of `like`, a live value, comes first. Without such a type the values keep the names.
        """
        wanted = values.type_name, values.fields
        kind: type | None = type(like)
        if kind is None or fields_of(kind) != values.fields or name_of(kind) != values.type_name:
            kind = self._types().get(wanted)
        if kind is None:
            return NamedValues.of(*wanted, items)
        made: tuple[Any, ...] = tuple.__new__(kind, items)
        return made

    def restored_key(self, key: Any) -> Any:
        """Return a key of a dict, or a member of a set, with all named tuples in it restored."""
        if type(key) is NamedValues:
            return self.restored(key, map(self.restored_key, key))
        if type(key) in (tuple, frozenset):
            return type(key)(map(self.restored_key, key))
        return key

    def _types(self) -> dict[tuple[str, tuple[str, ...]], type]:
        if self._found is None:
            self._found = {(name_of(kind), fields): kind for kind, fields in _living()}
        return self._found


def _living() -> Iterator[tuple[type, tuple[str, ...]]]:
    waiting: list[type] = [tuple]
    while waiting:
        kind = waiting.pop()
        waiting.extend(type.__subclasses__(kind))
        fields = fields_of(kind)
        if fields is not None and kind is not NamedValues:
            yield kind, fields
