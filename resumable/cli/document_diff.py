"""Compare two documents of the state codec, value by value, as JSON. Decodes nothing, so it needs no torch or trust."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from resumable.state.tensors.document_tags import items_below
from resumable.state.tensors.number_lists import items_of

# A longer list of plain numbers (the state of a generator, a history of losses) counts as one value.
LONG = 16
ABSENT = "(absent)"

_LISTS = ("$tuple", "$size")
_PAIRS = ("$dict", "$ordered", "$counter")

Pairs = Sequence[tuple[object, object]]


@dataclass(frozen=True)
class ValueDifference:
    """A path at which two documents differ, and the text of the value in each."""

    path: str
    a: str
    b: str


def document_differences(a: object, b: object, path: str) -> Iterator[ValueDifference]:
    """Yield every difference in type or bits: 1, 1.0 and True are not equal, nor are 0.0 and -0.0."""
    if _same(a, b):
        return
    tag, left = _untagged(a)
    other_tag, right = _untagged(b)
    below, other_below = items_below(tag, left), items_below(other_tag, right)
    if below and other_below and tag == other_tag and _same(below[1], other_below[1]):
        yield from document_differences(below[0], other_below[0], path)
    elif tag != other_tag or type(left) is not type(right):
        yield ValueDifference(path, value_text(a), value_text(b))
    elif isinstance(left, dict) and isinstance(right, dict) and tag is None:
        yield from _pair_differences(list(left.items()), list(right.items()), path, ordered=False)
    elif isinstance(left, list) and isinstance(right, list) and tag in _PAIRS:
        yield from _pair_differences(left, right, path, ordered=tag == "$ordered")
    elif isinstance(left, list) and isinstance(right, list) and tag in (None, *_LISTS):
        yield from _list_differences(left, right, path)
    else:
        yield ValueDifference(path, value_text(a), value_text(b))


def count_values(document: object) -> int:
    """Count the values of a document, without references to tensors."""
    tag, content = _untagged(document)
    if below := items_below(tag, content):
        return count_values(below[0])
    if isinstance(content, list) and tag in _PAIRS:
        return sum(count_values(item) for _, item in content)
    if isinstance(content, list) and tag in (None, *_LISTS):
        return 1 if _is_long(content) else sum(map(count_values, content))
    if isinstance(content, dict) and tag is None:
        return sum(map(count_values, content.values()))
    return 0 if tag in ("$tensor", "$array", "$octets") else 1


def value_text(document: object) -> str:
    """Return a value as a person writes it; a long one becomes its type and a checksum, which equal values share."""
    tag, content = _untagged(document)
    if tag is None and not isinstance(content, dict | list):
        return repr(document)
    if tag == "$float" and isinstance(content, str):
        return str(struct.unpack(">d", bytes.fromhex(content))[0])
    if tag in ("$int", "$dtype", "$device"):
        return str(content)
    kind = tag[1:] if tag else type(content).__name__
    if isinstance(content, list) and not _is_long(content):
        return f"{kind} of {len(content)}"
    return f"{kind} #{zlib.crc32(_canonical(content)):08x}"


def _pair_differences(a: Pairs, b: Pairs, path: str, *, ordered: bool) -> Iterator[ValueDifference]:
    names_a, names_b = {_name(key): item for key, item in a}, {_name(key): item for key, item in b}
    if ordered and list(names_a) != list(names_b) and names_a.keys() == names_b.keys():
        yield ValueDifference(f"{path} (order of keys)", ", ".join(names_a), ", ".join(names_b))
    for name in [*names_a, *(name for name in names_b if name not in names_a)]:
        inner = f"{path}.{name}"
        if name not in names_a or name not in names_b:
            texts = (value_text(names[name]) if name in names else ABSENT for names in (names_a, names_b))
            yield ValueDifference(inner, *texts)
        else:
            yield from document_differences(names_a[name], names_b[name], inner)


def _list_differences(a: list[Any], b: list[Any], path: str) -> Iterator[ValueDifference]:
    if len(a) != len(b):
        yield ValueDifference(f"{path} (length)", str(len(a)), str(len(b)))
    elif _is_long(a) and _is_long(b):
        different = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if not _same(x, y)]
        if not different:  # a list of version 2, and the same one as an array
            return
        first, *more = different
        where = f"{path}.{first}" + (f" (and {len(more)} more of {len(a)})" if more else "")
        yield ValueDifference(where, value_text(a[first]), value_text(b[first]))
    else:
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from document_differences(x, y, f"{path}.{index}")


def _untagged(document: object) -> tuple[str | None, object]:
    """Split a tagged value of the codec into tag and content; a plain value, and a list of numbers, has no tag."""
    numbers = items_of(document)
    if numbers is not None:
        return None, numbers
    if isinstance(document, dict) and len(document) == 1:
        (key,) = document
        if key.startswith("$"):
            return key, document[key]
    return None, document


def _name(key: object) -> str:
    return key if isinstance(key, str) else value_text(key)


def _is_long(items: Sequence[object]) -> bool:
    return len(items) > LONG and not any(isinstance(item, dict | list) for item in items)


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and _canonical(a) == _canonical(b)


def _canonical(value: object) -> bytes:
    # The order of keys is state only in an OrderedDict, which is stored as a list of pairs.
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()
