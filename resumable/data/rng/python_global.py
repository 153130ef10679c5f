"""Capture, restore and seed Python's global random stream as one block of memory. Independent of keys and NumPy.

`random.getstate` makes 625 integers of the state and `setstate` reads them, 18 microseconds together, once per batch.
The state is a C struct behind the object's head: an index, then 624 words. An import compares this layout with the
public functions; where they differ, the public functions do the work.
"""

from __future__ import annotations

import _random
import ctypes
import random
import struct
from typing import Any, TypeAlias

_WORDS = 624
_INDEX_BYTES = 4
_BLOCK_BYTES = _INDEX_BYTES + 4 * _WORDS
_OFFSET = object.__basicsize__


# The block and `gauss_next`; without the block, what `random.getstate` returns.
PythonState: TypeAlias = tuple[Any, ...]


def get_python_state() -> PythonState:
    """Return the state of the global stream; the stream stays as it was."""
    if _BLOCK is None:
        return random.getstate()
    return bytes(_BLOCK), _STREAM.gauss_next


def set_python_state(state: PythonState) -> None:
    """Set the global stream to a state that `get_python_state` returned in this program."""
    if _BLOCK is None:
        random.setstate(state)
    else:
        _BLOCK[:], _STREAM.gauss_next = state


def seeded_python_state(key: bytes) -> PythonState:
    """Return the state after `random.seed` with the integer that `key` is."""
    if _BLOCK is None:
        return random.Random(int.from_bytes(key, "little")).getstate()
    _scratch.seed(int.from_bytes(key, "little"))
    return bytes(_SCRATCH_BLOCK), None


def mersenne_words(key: bytes) -> memoryview | None:
    """Return the 624 words that MT19937's `init_by_array` makes of the words of `key`; valid until the next call.

    Python and NumPy seed by the same algorithm, Python in a third of the time, but it drops zero words at the end.
    Return None for such a key, and where the words cannot be read.
    """
    if _BLOCK is None or not any(key[-4:]):
        return None
    _scratch.seed(int.from_bytes(key, "little"))
    return _SCRATCH_WORDS


def memory_at(address: int, size: int) -> memoryview:
    """Return `size` bytes at `address`, to read and write."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _find_block() -> memoryview | None:
    """Return the block of the global stream; None unless that of a private stream has the expected layout."""
    if type(_STREAM) is not random.Random or _random.Random.__basicsize__ < _OFFSET + _BLOCK_BYTES:
        return None
    private = random.Random(0x7265_7375_6D61_626C)
    block = memory_at(id(private) + _OFFSET, _BLOCK_BYTES)
    first, expected = bytes(block), private.getstate()
    private.random()  # moves the index
    later, moved = bytes(block), private.getstate()
    block[:] = first
    sound = (first, later, private.getstate()) == (_packed(expected), _packed(moved), expected)
    return memory_at(id(_STREAM) + _OFFSET, _BLOCK_BYTES) if sound else None


def _packed(state: PythonState) -> bytes:
    *words, index = state[1]
    return struct.pack(f"=i{_WORDS}I", index, *words)


_scratch = _random.Random()
_SCRATCH_BLOCK = memory_at(id(_scratch) + _OFFSET, _BLOCK_BYTES)
_SCRATCH_WORDS = _SCRATCH_BLOCK[_INDEX_BYTES:]
_STREAM: Any = getattr(random, "_inst", None)
_BLOCK = _find_block()
