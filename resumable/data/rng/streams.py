"""Random streams set from a key, swapped in and put back; knows nothing of loaders, and never touches accelerators."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch

from resumable.data.addresses import derived, key_of
from resumable.data.rng import numpy_global, python_global
from resumable.data.rng.generator_rule import AnyGenerator

_NONE: Mapping[str, AnyGenerator] = {}

# torch's CPU generator (CPUGeneratorImplState): seed u64, left i32, seeded i32, next u64, 624 words as u64,
# three doubles and an int of the normal cache, then float + bool of the other cache.
_WORDS = 624
_STATE_BYTES = 5056
_HEAD = struct.Struct("=QiiQ")

T = TypeVar("T")


class Seeds:
    """The torch CPU, NumPy and Python streams as functions of all of a key, expanded once and ready to be set."""

    def __init__(self, key: bytes, image: Image | None = None) -> None:
        """What `image` held before is lost."""
        self.key = key
        self.number = seed_number(key)
        self._torch = (Image() if image is None else image).filled(key)
        self._numpy_key = derived(key, "numpy")
        self._numpy = numpy_global.image_of(self._numpy_key)
        self._python = python_global.state_of(derived(key, "python"))

    def set(self, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
        """Set the main streams, and `generators` by their paths."""
        torch.default_generator.set_state(self._torch)
        numpy_global.seed(self._numpy_key, self._numpy)
        python_global.put_back(self._python)
        for path, generator in generators.items():
            _seed(generator, key_of(self.key, "generator", path))

    def run(self, call: Callable[[], T], generators: Mapping[str, AnyGenerator] = _NONE) -> T:
        """The result of `call` under these streams; the caller's are put back, whatever happens inside."""
        with saved_streams(generators):
            self.set(generators)
            return call()


class SeedsAhead:
    """The seeds of one key after the other, expanded some at a time.

    Between two batches the training fills the processor's caches with other things, and what expands a key has to be
    fetched from memory again: once for `AT_ONCE` keys instead of once for each.
    """

    def __init__(self, following: Callable[[int], list[bytes]]) -> None:
        """`following(count)` tells up to `count` keys that will be asked for next."""
        self._following = following
        self._images: list[Image] = []
        self._ready: dict[bytes, Seeds] = {}

    def of(self, key: bytes) -> Seeds:
        """The seeds of `key`, good until others are asked for."""
        if key not in self._ready:
            keys = (key, *self._following(AT_ONCE - 1))
            self._images += [Image() for _ in range(len(keys) - len(self._images))]
            self._ready = {each: Seeds(each, image) for each, image in zip(keys, self._images, strict=False)}
        return self._ready.pop(key)


AT_ONCE = 16


def seeds_now(key: bytes) -> Seeds:
    """The seeds of `key`, good until others are asked for."""
    return Seeds(key, _image)


def seed_streams(key: bytes, generators: Mapping[str, AnyGenerator] = _NONE) -> None:
    """Set the torch CPU, NumPy and Python streams, and `generators`, to states that are functions of all of `key`."""
    seeds_now(key).set(generators)


def torch_state(key: bytes) -> torch.Tensor:
    """A full mt19937 state expanded from `key`: `manual_seed` would keep 32 bits of it.

    `left` is 1, so that the first draw regenerates from the 624 words. `initial_seed()` reads the key's first 8 bytes.
    """
    return Image().filled(key)


class Image:
    """The memory of one torch state, as torch takes it and as it is written to; a new one costs some microseconds."""

    def __init__(self) -> None:
        image = np.frombuffer(bytearray(_HEAD.pack(0, 1, 1, 0).ljust(_STATE_BYTES, b"\0")), dtype=np.uint64)
        drawn = bytearray(4 * _WORDS)
        self._tensor = torch.from_numpy(image.view(np.uint8))
        self._seed = image.data[:1]
        self._words = image[_HEAD.size // 8 :][:_WORDS]
        self._drawn = memoryview(drawn)
        self._drawn_words = np.frombuffer(drawn, dtype="<u4")

    def filled(self, key: bytes) -> torch.Tensor:
        self._seed[0] = seed_number(key)
        self._drawn[:] = hashlib.shake_128(key).digest(4 * _WORDS)
        self._words[:] = self._drawn_words
        return self._tensor


# Of the global stream only, which several threads could not share either.
_image = Image()


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
    return torch.default_generator.get_state(), numpy_global.capture(), python_global.capture()


def _put_back_main(state: tuple[Any, Any, Any]) -> None:
    torch.default_generator.set_state(state[0])
    numpy_global.put_back(state[1])
    python_global.put_back(state[2])


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
    if isinstance(generator, np.random.BitGenerator):
        return generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def _set_state(generator: AnyGenerator, state: Any) -> None:
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
        kind: Any = type(generator)
        generator.state = kind(_words_of(key)).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(_words_of(key))
    else:
        generator.seed(_integer_of(key))


def _words_of(key: bytes) -> Any:
    return np.frombuffer(key, dtype="<u4")


def _integer_of(key: bytes) -> int:
    return int.from_bytes(key, "little")
