"""NumPy's global stream, captured, put back and seeded in about a microsecond; knows nothing of addresses.

`np.random.get_state` and `set_state` copy 624 words one by one, 40 microseconds each, once per batch. The words and the
position among them lie as one block at an address that NumPy publishes (`BitGenerator.ctypes.state_address`); the
second value of the last legacy normal draw, kept for the next one, lies inside the `RandomState` itself. Where, is
learned from a private one at import and compared with what the public functions say; where they disagree, or another
bit generator is in use, the public functions do the work.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple

import numpy as np

from resumable.data.rng import python_global

_WORDS = 624
_BLOCK_BYTES = 4 * _WORDS + 4  # 624 words and the position among them
_KEPT_BYTES = 16  # an int that says whether a normal value is kept, padding, and the value as a double
_AT_THE_END = _WORDS.to_bytes(4, sys.byteorder)  # the first draw makes new words
_NOTHING_KEPT = bytes(_KEPT_BYTES)


class Image(NamedTuple):
    """One state of the global stream, as it lies in memory."""

    block: bytes
    kept: bytes


class _Place(NamedTuple):
    """Where the state of one stream lies."""

    source: Any  # the bit generator, which owns the block
    block: memoryview
    kept: memoryview


def capture() -> Any:
    """The state of the global stream; the stream stays as it was."""
    place = _find()
    if place is None:
        return np.random.get_state(legacy=False)
    return Image(bytes(place.block), bytes(place.kept))


def put_back(state: Any) -> None:
    """Set the global stream to a state that `capture` returned in this program."""
    place = _find()
    if place is not None and isinstance(state, Image):
        place.block[:], place.kept[:] = state
    else:
        np.random.set_state(_as_tuple(state) if isinstance(state, Image) else state)


def image_of(key: bytes) -> tuple[bytes, bytes] | None:
    """Block and kept value after `np.random.seed` with the 32-bit words of `key`; None where memory does not tell."""
    words = python_global.words_of(key) if _KEPT_OFFSET is not None else None
    return None if words is None else (b"".join((words, _AT_THE_END)), _NOTHING_KEPT)


def seed(key: bytes, image: tuple[bytes, bytes] | None) -> None:
    """Set the global stream to a function of all of `key`, whatever bit generator is under it.

    For a Mersenne twister that is `image`, what `image_of` said of this key.
    """
    place = _find()
    if place is not None and image is not None:
        place.block[:], place.kept[:] = image
    else:
        _seed_publicly(np.frombuffer(key, dtype="<u4"))


def _seed_publicly(words: Any) -> None:
    source: Any = np.random.get_bit_generator() if _CAN_BE_ASKED else None  # type: ignore[attr-defined]
    if source is None or type(source) is np.random.MT19937:
        np.random.seed(words)
    else:
        np.random.set_state(type(source)(words).state | {"has_gauss": 0, "gauss": 0.0})


def _find() -> _Place | None:
    """Where the global stream lies now; None where only the public functions know."""
    global _place
    if _KEPT_OFFSET is None:
        return None
    source = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if _place is None or _place.source is not source:
        _place = _place_of(_STREAM, source, _KEPT_OFFSET) if type(source) is np.random.MT19937 else None
    return _place


def _place_of(stream: Any, source: Any, kept_offset: int) -> _Place:
    block = python_global.memory(int(source.ctypes.state_address), _BLOCK_BYTES)
    kept = python_global.memory(id(stream) + kept_offset, _KEPT_BYTES)
    return _Place(source, block, kept)


def _as_tuple(image: Image) -> tuple[str, Any, int, int, float]:
    words = np.frombuffer(image.block, dtype=np.uint32)
    is_kept, value = np.frombuffer(image.kept, dtype=np.intc)[0], np.frombuffer(image.kept, dtype=np.float64)[1]
    return "MT19937", words[:_WORDS], int(words[_WORDS]), int(is_kept), float(value)


def _learn() -> int | None:
    """The offset of what is kept inside a `RandomState`; None unless all is where it is thought to be."""
    if not _CAN_BE_ASKED or type(_STREAM) is not np.random.RandomState:
        return None
    source = np.random.MT19937(0x7265_7375_6D61_626C)
    stream: Any = np.random.RandomState(source)
    stream.standard_normal()  # one value is kept now
    value = np.float64(stream.get_state()[4]).tobytes()
    inside = ctypes.string_at(id(stream), np.random.RandomState.__basicsize__)
    offset = inside.find(value) - _KEPT_BYTES // 2
    if offset < object.__basicsize__ or inside.count(value) != 1:
        return None
    sound = _is_there(stream, _place_of(stream, source, offset)) and _is_seeded_alike()
    return offset if sound else None


def _is_there(stream: Any, place: _Place) -> bool:
    # Read with a value kept and with none, and written back to the first: each time as the public functions see it.
    first, before = Image(bytes(place.block), bytes(place.kept)), stream.get_state()
    stream.standard_normal(1001)
    later, after = Image(bytes(place.block), bytes(place.kept)), stream.get_state()
    place.block[:], place.kept[:] = first
    pairs = ((_as_tuple(first), before), (_as_tuple(later), after), (stream.get_state(), before))
    return later.kept == _NOTHING_KEPT and all(map(_equal, *zip(*pairs, strict=True)))


def _is_seeded_alike() -> bool:
    key = bytes(range(16))
    words = python_global.words_of(key)
    public = np.random.RandomState(np.frombuffer(key, dtype="<u4"))
    state: Any = public.get_state()
    return words is not None and words == state[1].tobytes() and state[2] == _WORDS


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one[1], other[1]) and one[2:] == other[2:])


_CAN_BE_ASKED = hasattr(np.random, "get_bit_generator")
_STREAM: Any = getattr(np.random.mtrand, "_rand", None)
_KEPT_OFFSET = _learn()
_place: _Place | None = None
