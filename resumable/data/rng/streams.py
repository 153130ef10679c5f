"""Seed random streams from a key, swap them in, and restore them. Never touches the streams of accelerators."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from resumable.data.addresses import derived, key_of
from resumable.data.rng.generator_rule import AnyGenerator
from resumable.data.rng.numpy_global import NumpyState, get_numpy_state, seed_numpy, seeded_numpy_state, set_numpy_state
from resumable.data.rng.python_global import PythonState, get_python_state, seeded_python_state, set_python_state

_NONE: Mapping[str, AnyGenerator] = {}

# torch's CPU generator (CPUGeneratorImplState): seed u64, left i32, seeded i32, next u64, 624 words as u64,
# three doubles and an int of the normal cache, then float + bool of the other cache.
_WORDS = 624
_STATE_BYTES = 5056
_HEAD = struct.Struct("=QiiQ")

T = TypeVar("T")


class Seeds:
    """The torch CPU, NumPy and Python streams as functions of all of a key, expanded once and ready to be set."""

    def __init__(self, key: bytes, buffer: TorchStateBuffer | None = None) -> None:
        """Expand `key`, into `buffer` where one is passed: its content is overwritten."""
        self.key = key
        self.number = seed_number(key)
        self._torch = (TorchStateBuffer() if buffer is None else buffer).filled(key)
        self._numpy_key = derived(key, "numpy")
        self._numpy = seeded_numpy_state(self._numpy_key)
        self._python = seeded_python_state(derived(key, "python"))

    def set(self, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
        """Set the main streams, and `generators` by their paths."""
        torch.default_generator.set_state(self._torch)
        seed_numpy(self._numpy_key, self._numpy)
        set_python_state(self._python)
        for path, generator in generators.items():
            _seed(generator, key_of(self.key, "generator", path))

    def run(self, call: Callable[[], T], generators: Mapping[str, AnyGenerator] = _NONE) -> T:
        """Return the result of `call` under these streams; the caller's are restored, whatever happens inside."""
        with saved_streams(generators):
            self.set(generators)
            return call()


class SeedsAhead:
    """The seeds of one key after the other, expanded in groups.

    Between two batches the training fills the processor's caches, and the code and data that expand a key have to be
    fetched from memory again: once for `AT_ONCE` keys instead of once for each.
    """

    def __init__(self, following: Callable[[int], list[bytes]]) -> None:
        """`following(count)` returns up to `count` keys that will be requested next."""
        self._following = following
        self._buffers: list[TorchStateBuffer] = []
        self._ready: dict[bytes, Seeds] = {}

    def of(self, key: bytes) -> Seeds:
        """Return the seeds of `key`, valid until others are requested."""
        if key not in self._ready:
            keys = (key, *self._following(AT_ONCE - 1))
            self._buffers += [TorchStateBuffer() for _ in range(len(keys) - len(self._buffers))]
            self._ready = {each: Seeds(each, buffer) for each, buffer in zip(keys, self._buffers, strict=False)}
        return self._ready.pop(key)


AT_ONCE = 16


def seeds_now(key: bytes) -> Seeds:
    """Return the seeds of `key`, valid until others are requested."""
    return Seeds(key, _shared_buffer)


def seed_streams(key: bytes, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
    """Set the torch CPU, NumPy and Python streams, and `generators`, to states that are functions of all of `key`."""
    seeds_now(key).set(generators)


def torch_state(key: bytes) -> torch.Tensor:
    """Expand `key` into a full mt19937 state: `manual_seed` would keep 32 bits of it.

    `left` is 1, so that the first draw regenerates from the 624 words. `initial_seed()` reads the key's first 8 bytes.
    """
    return TorchStateBuffer().filled(key)


class TorchStateBuffer:
    """The memory of one torch state, reused from key to key: a new one costs some microseconds."""

    def __init__(self) -> None:
        image = np.frombuffer(bytearray(_HEAD.pack(0, 1, 1, 0).ljust(_STATE_BYTES, b"\0")), dtype=np.uint64)
        drawn = bytearray(4 * _WORDS)
        self._tensor = torch.from_numpy(image.view(np.uint8))
        self._seed = image.data[:1]
        self._words = image[_HEAD.size // 8 :][:_WORDS]
        self._drawn = memoryview(drawn)
        self._drawn_words = np.frombuffer(drawn, dtype="<u4")

    def filled(self, key: bytes) -> torch.Tensor:
        """Write the expanded `key` into the buffer and return it, as torch takes it."""
        self._seed[0] = seed_number(key)
        self._drawn[:] = hashlib.shake_128(key).digest(4 * _WORDS)
        self._words[:] = self._drawn_words
        return self._tensor


# For the global streams, which belong to one thread at a time anyway.
_shared_buffer = TorchStateBuffer()


def seed_number(key: bytes) -> int:
    """Return 63 bits of `key`, where one integer is needed (`torch.initial_seed()`, `worker_info.seed`)."""
    return int.from_bytes(key[:8], "little") >> 1


class saved_streams:
    """Context manager that restores the main CPU streams, and `generators`, whatever happens inside."""

    def __init__(self, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
        self._generators = generators

    def __enter__(self) -> None:
        self._main = _main_states()
        self._private = _states_of(self._generators)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _set_main(self._main)
        _set_states(self._private)


class PrivateStreams:
    """Streams beside the main ones: inside the context they are the main ones, and continue where they left off."""

    def __init__(self, key: bytes, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
        self.generators = dict(generators)
        self._quiet = False
        with saved_streams(self.generators):
            seed_streams(key, self.generators)
            self._main, self._private = _main_states(), _states_of(self.generators)

    def leave_main_alone(self) -> None:
        """Swap only the private generators from now on: the code inside draws from no other."""
        self._quiet = True

    @property
    def swaps_nothing(self) -> bool:
        """Return whether the context does nothing at all."""
        return self._quiet and not self.generators

    def __enter__(self) -> None:
        self._outer_private = _states_of(self.generators)
        _set_states(self._private)
        if not self._quiet:
            self._outer_main = _main_states()
            _set_main(self._main)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._private = _states_of(self.generators)
        _set_states(self._outer_private)
        if not self._quiet:
            self._main = _main_states()
            _set_main(self._outer_main)


_GeneratorState: TypeAlias = Any  # of the type that the generator's own functions take
_MainStates: TypeAlias = tuple[torch.Tensor, NumpyState, PythonState]


def _main_states() -> _MainStates:
    return torch.default_generator.get_state(), get_numpy_state(), get_python_state()


def _set_main(states: _MainStates) -> None:
    torch.default_generator.set_state(states[0])
    set_numpy_state(states[1])
    set_python_state(states[2])


def _states_of(generators: Mapping[str, AnyGenerator]) -> list[tuple[AnyGenerator, _GeneratorState]]:
    return [(generator, _state_of(generator)) for generator in generators.values()]


def _set_states(states: list[tuple[AnyGenerator, _GeneratorState]]) -> None:
    for generator, state in states:
        _set_state(generator, state)


def _state_of(generator: AnyGenerator) -> _GeneratorState:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.BitGenerator):
        return generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def _set_state(generator: AnyGenerator, state: _GeneratorState) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = state
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
        _seed(generator.bit_generator, key)
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = type(generator)(_words_of(key)).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(_words_of(key))
    else:
        generator.seed(_integer_of(key))


def _words_of(key: bytes) -> npt.NDArray[np.uint32]:
    return np.frombuffer(key, dtype="<u4")


def _integer_of(key: bytes) -> int:
    return int.from_bytes(key, "little")
