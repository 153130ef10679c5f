"""Parse and write JSON strictly: bounded, without duplicate keys or NaN. Independent of its content."""

from __future__ import annotations

import json
import math
from itertools import accumulate
from typing import Any, NoReturn

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 64
MAX_ITEMS = 4_000_000

_SCAN_PIECE_BYTES = 64 * 2**10  # see `_skeleton`
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def loads(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, max_items: int = MAX_ITEMS) -> Any:
    """Parse JSON text; raise `ValueError` with the reason for every failure, also for an exceeded bound."""
    _check_bounds(data, max_bytes=max_bytes, max_items=max_items)
    _check_depth(data, max_depth)
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at character {error.pos}") from error


def dumps(value: object, *, max_bytes: int = MAX_BYTES, max_items: int = MAX_ITEMS) -> bytes:
    """Return compact UTF-8 JSON in insertion order; `ValueError` for NaN, infinities, and more than `loads` accepts."""
    data = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    _check_bounds(data, max_bytes=max_bytes, max_items=max_items)
    return data


def _check_bounds(data: bytes, *, max_bytes: int, max_items: int) -> None:
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes of JSON, more than the {max_bytes} allowed")
    # Checked before parsing, which allocates an object per item. The first count is cheap, and at worst too high.
    if _items(data) > max_items and _items(_skeleton(data)) > max_items:
        raise ValueError(f"more than {max_items} items of JSON")


def _check_depth(data: bytes, max_depth: int) -> None:
    # Checked before parsing, which recurses.
    if _depth(_skeleton(data).translate(None, _NOT_BRACKETS), up_to=max_depth) > max_depth:
        raise ValueError(f"JSON nested deeper than {max_depth}, or brackets without partners")


def _items(text: bytes) -> int:
    return max(text.count(b",") + text.count(b"[") + text.count(b"{"), text.count(b"]") + text.count(b"}"))


def _skeleton(data: bytes) -> bytes:
    """Return what is outside of strings. In pieces: a text of quotes alone would become millions of objects at once."""
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside, inside = [], 0
    for start in range(0, len(plain), _SCAN_PIECE_BYTES):
        parts = plain[start : start + _SCAN_PIECE_BYTES].split(b'"')
        outside.append(b"".join(parts[inside::2]))
        inside ^= (len(parts) - 1) % 2
    return b"".join(outside)


def _depth(brackets: bytes, *, up_to: int) -> int:
    left = brackets
    for depth in range(up_to + 1):  # each round takes away the innermost pairs
        if not left:
            return depth
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    # Too deep, or brackets without partners; if few are left, the parser may report more detail.
    if len(left) > 2 * up_to:
        return len(left)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets))


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice[:80]!r} in one object")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
