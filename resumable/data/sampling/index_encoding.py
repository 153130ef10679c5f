"""Encode what samplers yield as bytes, to digest an order and compare it on resume. Independent of samplers."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

import numpy as np
import torch


def encode_index(index: object) -> bytes:
    """Return bytes that differ where indices differ: framed, so that [1, 2], [3] is not [1], [2, 3]."""
    if type(index) is int:
        return _encode_int(index)
    if type(index) is list:
        try:
            return b"l" + len(index).to_bytes(4, "little") + array("q", index).tobytes()
        except (TypeError, OverflowError):
            pass
    return _encode_slowly(index)


def _encode_int(index: int) -> bytes:
    try:
        return b"q" + struct.pack("<q", index)
    except struct.error:
        return _framed(b"r", repr(index).encode())


def _encode_slowly(index: object) -> bytes:
    if isinstance(index, list | tuple):
        return _encode_items(b"L", index)
    if isinstance(index, torch.Tensor):
        index = index.detach().cpu().numpy()
    if isinstance(index, np.ndarray | np.generic):
        return _framed(b"a", f"{index.dtype.str}{index.shape}".encode()) + _framed(b"d", index.tobytes())
    if isinstance(index, dict):
        return _encode_items(b"D", tuple(index.items()))
    if isinstance(index, str | bytes | int | float | bool | slice | None):
        return _framed(b"r", repr(index).encode())
    # A type not listed above: an address in its repr would make every resume fail, so only its type counts.
    return _framed(b"t", type(index).__qualname__.encode())


def _encode_items(tag: bytes, items: Sequence[object]) -> bytes:
    return tag + len(items).to_bytes(4, "little") + b"".join(map(encode_index, items))


def _framed(tag: bytes, data: bytes) -> bytes:
    return tag + len(data).to_bytes(4, "little") + data
