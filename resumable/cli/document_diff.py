"""Two documents of the state codec, value by value, as JSON; decodes nothing, so it needs neither torch nor trust."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A long list of plain numbers (the state of a generator, a history of losses) is one value to a person.
LONG = 16
ABSENT = "(absent)"

_LISTS = ("$tuple", "$size")
_PAIRS = ("$dict", "$ordered", "$counter")


@dataclass(frozen=True)
class Unequal:
    """A place where two documents differ, and what a person reads there in each."""

    path: str
    a: str
    b: str


def unequal(a: Any, b: Any, path: str) -> Iterator[Unequal]:
    """Every place where `a` and `b` differ in type or bits: 1, 1.0 and True are not equal, nor are 0.0 and -0.0."""
    if _same(a, b):
        return
    tag = _tag(a)
    if tag != _tag(b) or type(a) is not type(b):
        yield Unequal(path, shown(a), shown(b))
    elif tag in _PAIRS:
        yield from _unequal_pairs(a[tag], b[tag], path, ordered=tag == "$ordered")
    elif tag in _LISTS:
        yield from _unequal_lists(a[tag], b[tag], path)
    elif tag is None and isinstance(a, dict):
        yield from _unequal_pairs(list(a.items()), list(b.items()), path, ordered=False)
    elif isinstance(a, list):
        yield from _unequal_lists(a, b, path)
    else:
        yield Unequal(path, shown(a), shown(b))


def values(document: Any) -> int:
    """How many values a document holds, references to tensors not counted."""
    tag = _tag(document)
    if tag in _PAIRS:
        return sum(values(item) for _, item in document[tag])
    if tag in _LISTS:
        return values(document[tag])
    if isinstance(document, list):
        return 1 if _is_long(document) else sum(map(values, document))
    if tag is None and isinstance(document, dict):
        return sum(map(values, document.values()))
    return 0 if tag in ("$tensor", "$array", "$octets") else 1


def shown(document: Any) -> str:
    """A value as a person writes it; what is long is told by its sort and a mark by which equal ones are known."""
    tag = _tag(document)
    if tag is None and not isinstance(document, dict | list):
        return repr(document)
    content = document[tag] if tag else document
    if tag == "$float":
        return str(struct.unpack(">d", bytes.fromhex(content))[0])
    if tag in ("$int", "$dtype", "$device"):
        return str(content)
    sort = tag[1:] if tag else type(document).__name__
    if isinstance(content, list) and not _is_long(content):
        return f"{sort} of {len(content)}"
    return f"{sort} #{zlib.crc32(_canonical(content)):08x}"


def _unequal_pairs(a: list[Any], b: list[Any], path: str, *, ordered: bool) -> Iterator[Unequal]:
    names_a, names_b = {_name(key): item for key, item in a}, {_name(key): item for key, item in b}
    if ordered and list(names_a) != list(names_b) and names_a.keys() == names_b.keys():
        yield Unequal(f"{path} (order of keys)", ", ".join(names_a), ", ".join(names_b))
    for name in [*names_a, *(name for name in names_b if name not in names_a)]:
        inner = f"{path}.{name}"
        if name not in names_a or name not in names_b:
            yield Unequal(inner, *(shown(names[name]) if name in names else ABSENT for names in (names_a, names_b)))
        else:
            yield from unequal(names_a[name], names_b[name], inner)


def _unequal_lists(a: list[Any], b: list[Any], path: str) -> Iterator[Unequal]:
    if len(a) != len(b):
        yield Unequal(f"{path} (length)", str(len(a)), str(len(b)))
    elif _is_long(a) and _is_long(b):
        first, *more = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if not _same(x, y)]
        where = f"{path}.{first}" + (f" (and {len(more)} more of {len(a)})" if more else "")
        yield Unequal(where, shown(a[first]), shown(b[first]))
    else:
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from unequal(x, y, f"{path}.{index}")


def _tag(document: Any) -> str | None:
    if isinstance(document, dict) and len(document) == 1:
        (key,) = document
        return key if key.startswith("$") else None
    return None


def _name(key: Any) -> str:
    return key if isinstance(key, str) else shown(key)


def _is_long(items: list[Any]) -> bool:
    return len(items) > LONG and not any(isinstance(item, dict | list) for item in items)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and _canonical(a) == _canonical(b)


def _canonical(value: Any) -> bytes:
    # Order of keys is not state where it is no OrderedDict, and that one is a list of pairs.
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()
