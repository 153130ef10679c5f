"""Random streams set from a key, swapped in and put back; knows nothing of loaders, and never touches accelerators."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch

from resumable.data import legacy, twister
from resumable.data.addresses import derived, key_of
from resumable.data.generators import AnyGenerator

_NONE: Mapping[str, AnyGenerator] = {}

# torch's CPU generator (CPUGeneratorImplState): seed u64, left i32, seeded i32, next u64, 624 words as u64,
# three doubles and an int of the normal cache, then float + bool of the other cache.
_WORDS = 624
_STATE_BYTES = 5056
_HEAD = struct.Struct("=QiiQ")


def seed_streams(key: bytes, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
    """Set the torch CPU, NumPy and Python streams, and `generators`, to states that are functions of all of `key`."""
    _fill(_image, key)
    torch.default_generator.set_state(_image.tensor)
    legacy.seed(derived(key, "numpy"))
    random.seed(_integer_of(derived(key, "python")))
    for path, generator in generators.items():
        _seed(generator, key_of(key, "generator", path))


def torch_state(key: bytes) -> torch.Tensor:
    """A full mt19937 state expanded from `key`: `manual_seed` would keep 32 bits of it.

    `left` is 1, so that the first draw regenerates from the 624 words. `initial_seed()` reads the key's first 8 bytes.
    """
    image = _Image()
    _fill(image, key)
    return image.tensor


class _Image:
    """The memory of one torch state, as torch takes it and as it is written to."""

    def __init__(self) -> None:
        image = np.frombuffer(bytearray(_HEAD.pack(0, 1, 1, 0).ljust(_STATE_BYTES, b"\0")), dtype=np.uint64)
        drawn = bytearray(4 * _WORDS)
        self.tensor = torch.from_numpy(image.view(np.uint8))
        self.seed = image.data[:1]
        self.words = image[_HEAD.size // 8 :][:_WORDS]
        self.drawn = memoryview(drawn)
        self.drawn_words = np.frombuffer(drawn, dtype="<u4")


def _fill(image: _Image, key: bytes) -> None:
    image.seed[0] = seed_number(key)
    image.drawn[:] = hashlib.shake_128(key).digest(4 * _WORDS)
    image.words[:] = image.drawn_words


# Of the global stream only, which several threads could not share either; each new one costs some microseconds.
_image = _Image()


def seed_number(key: bytes) -> int:
    """63 bits of `key`, for whatever wants one integer (`torch.initial_seed()`, `worker_info.seed`)."""
    return int.from_bytes(key[:8], "little") >> 1


class saved_streams:
    """Context that puts the main CPU streams, and `generators`, back as they were, whatever happens inside."""

    def __init__(self, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
        self._generators = generators

    def __enter__(self) -> None:
        self._main = _capture_main()
        self._private = _capture(self._generators)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _put_back_main(self._main)
        _put_back(self._private)


class PrivateStreams:
    """Streams that live beside the main ones: inside the context they are the main ones, and go on where they stood."""

    def __init__(self, key: bytes, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
        self.generators = dict(generators)
        self._quiet = False
        with saved_streams(self.generators):
            seed_streams(key, self.generators)
            self._main, self._private = _capture_main(), _capture(self.generators)

    def leave_main_alone(self) -> None:
        """From now on swap the private generators only: the code inside is known to draw from nothing else."""
        self._quiet = True

    @property
    def swaps_nothing(self) -> bool:
        """Whether the context would do nothing at all."""
        return self._quiet and not self.generators

    def __enter__(self) -> None:
        self._outer_private = _capture(self.generators)
        _put_back(self._private)
        if not self._quiet:
            self._outer_main = _capture_main()
            _put_back_main(self._main)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._private = _capture(self.generators)
        _put_back(self._outer_private)
        if not self._quiet:
            self._main = _capture_main()
            _put_back_main(self._outer_main)


def _capture_main() -> tuple[Any, Any, Any]:
    return torch.default_generator.get_state(), legacy.capture(), twister.capture()


def _put_back_main(state: tuple[Any, Any, Any]) -> None:
    torch.default_generator.set_state(state[0])
    legacy.put_back(state[1])
    twister.put_back(state[2])


def _capture(generators: Mapping[str, AnyGenerator]) -> list[tuple[AnyGenerator, Any]]:
    return [(generator, _state_of(generator)) for generator in generators.values()]


def _put_back(states: list[tuple[AnyGenerator, Any]]) -> None:
    for generator, state in states:
        _set_state(generator, state)


def _state_of(generator: AnyGenerator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def _set_state(generator: AnyGenerator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _seed(generator: AnyGenerator, key: bytes) -> None:
    if isinstance(generator, torch.Generator):
        if generator.device.type == "cpu":
            generator.set_state(torch_state(key))
        else:
            generator.manual_seed(seed_number(key))
    elif isinstance(generator, np.random.Generator):
        kind: Any = type(generator.bit_generator)
        generator.bit_generator.state = kind(_words_of(key)).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(_words_of(key))
    else:
        generator.seed(_integer_of(key))


def _words_of(key: bytes) -> Any:
    return np.frombuffer(key, dtype="<u4")


def _integer_of(key: bytes) -> int:
    return int.from_bytes(key, "little")
