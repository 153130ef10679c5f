"""JSON that is data: bounded, without duplicate keys or NaN; knows nothing of what it describes."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 64
MAX_ITEMS = 5_000_000

# To the end where the closing quote is missing: starting anew at every quote in between would take quadratic time.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def loads(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, max_items: int = MAX_ITEMS) -> Any:
    """Parse JSON text; every failure, also one of the bounds, is a `ValueError` that says which."""
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes of JSON, more than the {max_bytes} allowed")
    _check_shape(data, max_depth=max_depth, max_items=max_items)
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at character {error.pos}") from error


def dumps(value: Any) -> bytes:
    """Compact UTF-8 JSON in insertion order; `ValueError` for NaN and infinities."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _check_shape(data: bytes, *, max_depth: int, max_items: int) -> None:
    # Looked at before parsing: the parser recurses, and allocates an object per item.
    skeleton = _STRING.sub(b"", data)
    items = skeleton.count(b",") + skeleton.count(b"[") + skeleton.count(b"{")
    if items > max_items:
        raise ValueError(f"more than {max_items} items of JSON")
    if _depth(skeleton.translate(None, _NOT_BRACKETS), up_to=max_depth) > max_depth:
        raise ValueError(f"JSON nested deeper than {max_depth}")


def _depth(brackets: bytes, *, up_to: int) -> int:
    left = brackets
    for depth in range(up_to + 1):  # each round takes away the innermost pairs
        if not left:
            return depth
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    # Too deep, or brackets without a partner, about which the parser has more to say.
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
