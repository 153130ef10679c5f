"""What a checkpoint notes of a value that it does not hold: its type, and a digest. Executes nothing of the value's.

Numbers, booleans and None are noted themselves, and of texts the digest alone: a token is a local variable, too.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import xxhash

MOST_BYTES = 1 << 20
MOST_ITEMS = 10_000
_EXACT = 2**53
UNBOUND: Mapping[str, object] = {"type": "unbound"}


class Budget:
    """What is left of the items and bytes that one checkpoint may digest."""

    def __init__(self, items: int = MOST_ITEMS, bytes_: int = MOST_BYTES) -> None:
        self._items, self._bytes = items, bytes_

    def take(self, size: int) -> bool:
        """Return whether an item of this many bytes is still within the bounds."""
        self._items -= 1
        self._bytes -= size
        return self._items >= 0 and self._bytes >= 0


def note_of(value: object, budget: Budget) -> dict[str, object]:
    """Return the type of a value, and its value or digest; the type alone where it is not compared."""
    kind = type(value)
    note: dict[str, object] = {"type": kind.__name__}
    if value is None or isinstance(value, bool) or (isinstance(value, int) and kind is int and abs(value) <= _EXACT):
        return note | {"value": value}
    if isinstance(value, float) and kind is float:
        return note | {"value": value if math.isfinite(value) else str(value)}
    parts = [*_bytes_of(value, budget, set())]
    if None in parts:
        return note
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part if part is not None else b"")
    return note | {"digest": digest.hexdigest()}


def is_compared(note: Mapping[str, object]) -> bool:
    """Return whether a value with this note can be compared with another one."""
    return "value" in note or "digest" in note or note == UNBOUND


def shown(note: Mapping[str, object]) -> str:
    """Return the value for people: a number itself, else the type and the first digits of the digest."""
    if note == UNBOUND:
        return "not bound"
    if "value" in note:
        return str(note["value"])
    return f"{note.get('type')} {str(note.get('digest'))[:8]}"


def _bytes_of(value: Any, budget: Budget, around: set[int]) -> Iterator[bytes | None]:
    """Yield what identifies a value; None for what is not looked at, or where the budget is spent."""
    kind = type(value)
    yield f"{kind.__name__}\0".encode()
    if value is None or kind in (bool, int, float, complex):
        yield repr(value).encode() if budget.take(32) else None
    elif kind in (str, bytes, bytearray):
        yield _text(value) if budget.take(len(value)) else None
    elif kind in (list, tuple, dict) and id(value) not in around:
        if not budget.take(8) or len(value) > MOST_ITEMS:
            yield None
            return
        yield str(len(value)).encode()
        if kind is not dict and (numbers := _numbers(value)):
            yield numbers if budget.take(len(numbers)) else None
            return
        inside = around | {id(value)}
        for part in (each for pair in value.items() for each in pair) if kind is dict else value:
            yield from _bytes_of(part, budget, inside)
    else:
        yield _array(value, budget)


def _numbers(values: Any) -> bytes:
    """Return the bytes of a list of floats or of whole numbers of 64 bits, nothing for any other one."""
    code = {frozenset({float}): "d", frozenset({int}): "q"}.get(frozenset(map(type, values)))
    try:
        return array(code, values).tobytes() if code else b""
    except OverflowError:
        return b""


def _text(value: str | bytes | bytearray) -> bytes:
    data = value.encode(errors="surrogatepass") if isinstance(value, str) else bytes(value)
    return hashlib.blake2b(data, digest_size=12).digest()


def _array(value: Any, budget: Budget) -> bytes | None:
    """Return the bytes of an array of NumPy or a tensor on the host; a device would have to be waited for."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter):
        plain = value.layout is torch.strided and value.is_cpu and not value.is_quantized and not value.is_nested
        if not plain or not budget.take(value.numel() * value.element_size()):
            return None
        detached = value.detach().resolve_conj().resolve_neg().contiguous()
        described = f"{value.dtype}{list(value.shape)}".encode()
        return described + (detached.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    if numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        if value.dtype.hasobject or not budget.take(value.nbytes):
            return None
        return f"{value.dtype}{list(value.shape)}".encode() + bytes(value.tobytes())
    return None
