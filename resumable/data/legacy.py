"""NumPy's global stream, captured and put back in a few microseconds; knows nothing of keys.

`np.random.get_state` and `set_state` copy 624 words one by one, 40 microseconds each, twice per batch. The words lie at
an address that NumPy publishes (`BitGenerator.ctypes.state_address`) and are copied as one block. What does not lie
there is the second value of the last legacy normal draw, kept for the next one: with the words set to a known state,
a draw either gives the value known for that state, or the kept one.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

_WORDS = 624
_BLOCK_BYTES = 4 * _WORDS + 4  # 624 words and the position among them


@dataclass(frozen=True)
class _Block:
    image: bytes
    kept_normal: float | None


def capture() -> Any:
    """The state of the global stream; the stream stays as it was."""
    address = _address()
    if address is None:
        return np.random.get_state(legacy=False)
    image = ctypes.string_at(address, _BLOCK_BYTES)
    block = _Block(image, _take_kept_normal(address))
    put_back(block)
    return block


def put_back(state: Any) -> None:
    """Set the global stream to a state that `capture` returned in this program."""
    address = _address()
    if not isinstance(state, _Block):
        np.random.set_state(state)
    elif address is None or state.kept_normal is not None:
        np.random.set_state(_as_tuple(state))
    else:
        _take_kept_normal(address)
        ctypes.memmove(address, state.image, _BLOCK_BYTES)


def seed(words: Any) -> None:
    """Set the global stream to a function of all of `words`, whatever bit generator is under it."""
    source: Any = np.random.get_bit_generator() if _BLOCK_IS_KNOWN else None  # type: ignore[attr-defined]
    if source is None or type(source) is np.random.MT19937:
        np.random.seed(words)
    else:
        np.random.set_state(type(source)(words).state | {"has_gauss": 0, "gauss": 0.0})


def _address() -> int | None:
    if not _BLOCK_IS_KNOWN:
        return None
    source = np.random.get_bit_generator()  # type: ignore[attr-defined]
    return int(source.ctypes.state_address) if type(source) is np.random.MT19937 else None


def _take_kept_normal(address: int) -> float | None:
    """The value kept by the last legacy normal draw, which is kept no longer; leaves the words in the known state."""
    ctypes.memmove(address, _KNOWN_IMAGE, _BLOCK_BYTES)
    drawn = np.random.standard_normal()
    if drawn != _KNOWN_NORMAL:
        return drawn
    np.random.standard_normal()
    return None


def _as_tuple(block: _Block) -> tuple[str, Any, int, int, float]:
    words = np.frombuffer(block.image, dtype=np.uint32)
    kept = block.kept_normal
    return "MT19937", words[:_WORDS], int(words[_WORDS]), int(kept is not None), kept or 0.0


def _learn() -> tuple[bytes, float, bool]:
    source = np.random.MT19937(0x7265_7375_6D61_626C)
    stream = np.random.RandomState(source)
    stream.bytes(4)  # so that the position is inside the block
    image = ctypes.string_at(int(source.ctypes.state_address), _BLOCK_BYTES)
    public: Any = stream.get_state()
    known = image == public[1].astype(np.uint32).tobytes() + int(public[2]).to_bytes(4, _BYTE_ORDER)
    return image, float(stream.standard_normal()), known and hasattr(np.random, "get_bit_generator")


_BYTE_ORDER: Any = "little" if np.little_endian else "big"
_KNOWN_IMAGE, _KNOWN_NORMAL, _BLOCK_IS_KNOWN = _learn()
