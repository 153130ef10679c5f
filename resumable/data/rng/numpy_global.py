"""Capture, restore and seed NumPy's global random stream in about a microsecond. Independent of keys.

`np.random.get_state` and `set_state` copy 624 words one by one, 40 microseconds each, once per batch. The words and the
position among them are one block at an address that NumPy publishes (`BitGenerator.ctypes.state_address`). The second
value of the last legacy normal draw, kept for the next one, is inside the `RandomState` itself. An import finds its
offset in a private `RandomState` and compares all of it with the public functions. Where they differ, or another bit
generator is in use, the public functions do the work.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from resumable.data.rng.python_global import memory_at, mersenne_words

_WORDS = 624
_BLOCK_BYTES = 4 * _WORDS + 4  # 624 words and the position among them
_KEPT_BYTES = 16  # an int flag (a normal value is kept), padding, and the value as a double
_AT_THE_END = _WORDS.to_bytes(4, sys.byteorder)  # the first draw makes new words
_NOTHING_KEPT = bytes(_KEPT_BYTES)


class NumpyMemory(NamedTuple):
    """One state of the global stream, as a copy of its memory."""

    block: bytes
    kept: bytes


class _StateMemory(NamedTuple):
    """The memory that holds the state of one stream, to read and write."""

    source: np.random.BitGenerator  # the owner of the block
    block: memoryview
    kept: memoryview


NumpyState: TypeAlias = NumpyMemory | dict[str, Any]  # the dict is of `np.random.get_state(legacy=False)`
_LegacyState: TypeAlias = tuple[str, npt.NDArray[np.uint32], int, int, float]  # of `RandomState.get_state()`


def get_numpy_state() -> NumpyState:
    """Return the state of the global stream; the stream stays as it was."""
    current = _global_memory()
    if current is None:
        return np.random.get_state(legacy=False)
    return NumpyMemory(bytes(current.block), bytes(current.kept))


def set_numpy_state(state: NumpyState) -> None:
    """Set the global stream to a state that `get_numpy_state` returned in this program."""
    current = _global_memory()
    if not isinstance(state, NumpyMemory):
        np.random.set_state(state)
    elif current is None:
        np.random.set_state(_legacy_state(state))
    else:
        current.block[:], current.kept[:] = state


def seeded_numpy_state(key: bytes) -> tuple[bytes, bytes] | None:
    """Return block and kept value after `np.random.seed` with the words of `key`; None where the layout is unknown."""
    words = mersenne_words(key) if _KEPT_OFFSET is not None else None
    return None if words is None else (b"".join((words, _AT_THE_END)), _NOTHING_KEPT)


def seed_numpy(key: bytes, state: tuple[bytes, bytes] | None) -> None:
    """Set the global stream to a function of all of `key`, whatever its bit generator is.

    `state` is what `seeded_numpy_state` returned for this key: the result, where the generator is a Mersenne twister.
    """
    current = _global_memory()
    if current is not None and state is not None:
        current.block[:], current.kept[:] = state
    else:
        _seed_publicly(np.frombuffer(key, dtype="<u4"))


def _seed_publicly(words: npt.NDArray[np.uint32]) -> None:
    source = np.random.get_bit_generator() if _HAS_BIT_GENERATOR else None  # type: ignore[attr-defined]
    if source is None or type(source) is np.random.MT19937:
        np.random.seed(words)
    else:
        np.random.set_state({**type(source)(words).state, "has_gauss": 0, "gauss": 0.0})


def _global_memory() -> _StateMemory | None:
    """Return the memory of the global stream; None where only the public functions reach its state."""
    global _memory
    if _KEPT_OFFSET is None:
        return None
    source = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if _memory is None or _memory.source is not source:
        _memory = _memory_of(_STREAM, source, _KEPT_OFFSET) if type(source) is np.random.MT19937 else None
    return _memory


def _memory_of(stream: object, source: np.random.BitGenerator, kept_offset: int) -> _StateMemory:
    block = memory_at(int(source.ctypes.state_address), _BLOCK_BYTES)
    return _StateMemory(source, block, memory_at(id(stream) + kept_offset, _KEPT_BYTES))


def _legacy_state(state: NumpyMemory) -> _LegacyState:
    words = np.frombuffer(state.block, dtype=np.uint32)
    is_kept, value = np.frombuffer(state.kept, dtype=np.intc)[0], np.frombuffer(state.kept, dtype=np.float64)[1]
    return "MT19937", words[:_WORDS], int(words[_WORDS]), int(is_kept), float(value)


def _find_kept_offset() -> int | None:
    """Return the offset of the kept value inside a `RandomState`; None unless all of the layout is as expected."""
    if not _HAS_BIT_GENERATOR or type(_STREAM) is not np.random.RandomState:
        return None
    source = np.random.MT19937(0x7265_7375_6D61_626C)
    stream = np.random.RandomState(source)
    stream.standard_normal()  # one value is kept now
    value = np.float64(_state_of(stream)[4]).tobytes()
    inside = ctypes.string_at(id(stream), np.random.RandomState.__basicsize__)
    offset = inside.find(value) - _KEPT_BYTES // 2
    if offset < object.__basicsize__ or inside.count(value) != 1:
        return None
    sound = _has_layout(stream, _memory_of(stream, source, offset)) and _seeds_alike()
    return offset if sound else None


def _has_layout(stream: np.random.RandomState, found: _StateMemory) -> bool:
    # Read with a value kept and with none, and written back to the first: each time equal to the public functions.
    first, before = NumpyMemory(bytes(found.block), bytes(found.kept)), _state_of(stream)
    stream.standard_normal(1001)
    later, after = NumpyMemory(bytes(found.block), bytes(found.kept)), _state_of(stream)
    found.block[:], found.kept[:] = first
    pairs = ((_legacy_state(first), before), (_legacy_state(later), after), (_state_of(stream), before))
    return later.kept == _NOTHING_KEPT and all(_equal(one, other) for one, other in pairs)


def _seeds_alike() -> bool:
    key = bytes(range(16))
    words = mersenne_words(key)
    state = _state_of(np.random.RandomState(np.frombuffer(key, dtype="<u4")))
    return words is not None and words == state[1].tobytes() and state[2] == _WORDS


def _state_of(stream: np.random.RandomState) -> _LegacyState:
    state = stream.get_state(legacy=True)
    assert isinstance(state, tuple)
    return state


def _equal(one: _LegacyState, other: _LegacyState) -> bool:
    return bool(np.array_equal(one[1], other[1]) and one[2:] == other[2:])


_HAS_BIT_GENERATOR = hasattr(np.random, "get_bit_generator")
_STREAM = getattr(np.random.mtrand, "_rand", None)
_KEPT_OFFSET = _find_kept_offset()
_memory: _StateMemory | None = None  # of the bit generator that was the global one at the last call
