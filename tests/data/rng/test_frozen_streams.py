"""What the streams are after seeding, frozen: runs that were begun by an older version go on with the same bits.

The constants were taken from the version that wrote format 1, which seeded and copied by public functions alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from resumable.data.rng import numpy_global, python_global
from resumable.data.rng.generator_rule import AnyGenerator
from resumable.data.rng.streams import saved_streams, seed_streams


class Frozen(NamedTuple):
    """The beginnings of SHA-256 of the three states, and what is drawn from the main and the private streams."""

    torch: str
    numpy: str
    python: str
    draws: list[float]
    private: list[float]


FROZEN = {
    "000102030405060708090a0b0c0d0e0f": Frozen(
        torch="dc9b0da3ab0426fc",
        numpy="03b50340e9f62957",
        python="b8e6e263b2a5289f",
        draws=[
            0.5080326199531555,
            -2.9971883296966553,
            0.32587743388598855,
            0.29388907502412737,
            -0.6401169527414248,
            0.9770047158583799,
            1.023849482654359,
        ],
        private=[0.3923764228820801, 0.2205416490688139, 0.5051972870309644, 0.1206309914438316, -1.5113947262812284],
    ),
    "00000000000000000000000000000000": Frozen(
        torch="25bfc29bd32862e0",
        numpy="217cb0e69562a002",
        python="c307e17dab8b3c71",
        draws=[
            0.21304142475128174,
            1.0667644739151,
            0.30517216096990396,
            1.1743925415553353,
            2.0014075200962758,
            0.2652638764779327,
            -2.267139812011298,
        ],
        private=[0.2885436415672302, 0.8272797084040312, 0.7178739118662122, 0.8397521174695275, 0.3686487694274657],
    ),
    "ffffffffffffffffffffffffffffffff": Frozen(
        torch="74fd4c99bd0f7f60",
        numpy="241b5865b22cb2aa",
        python="6c6b956ed432f2eb",
        draws=[
            0.45006006956100464,
            0.5133962035179138,
            0.4953294647620027,
            -1.1740204866900694,
            0.6505194692610465,
            0.943628841562914,
            0.16279887916094188,
        ],
        private=[
            0.8695130944252014,
            0.6352654989412414,
            0.19686591546251553,
            0.5819140789975202,
            -0.039744463016243146,
        ],
    ),
    "ff6501f7eb15109f084b04a3a108a59e": Frozen(
        torch="8b5ddd3abf2613b8",
        numpy="26014a52fcfbd50d",
        python="467c3cc133883858",
        draws=[
            0.6818525791168213,
            1.2557045221328735,
            0.05283595142766595,
            -1.454431740622923,
            1.342560533112285,
            0.6898099209476964,
            -0.3491519345449298,
        ],
        private=[0.29093778133392334, 0.8375506731524471, 0.11404448476565743, 0.6387693947629328, -2.4413323212328915],
    ),
}
WAYS = ("by memory", "by public functions")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "by public functions":
        monkeypatch.setattr(numpy_global, "_KEPT_OFFSET", None)
        monkeypatch.setattr(python_global, "_BLOCK", None)
    return str(request.param)


def disturb() -> None:
    """Leave every stream elsewhere, with a second normal value kept in each."""
    np.random.randn()
    random.gauss(0, 1)
    torch.randn(17)


def main_states() -> tuple[str, str, str]:
    """The states as the public functions tell them."""
    numpy: Any = np.random.get_state()
    plain = (numpy[0], numpy[1].tolist(), *numpy[2:])
    images = (torch.get_rng_state().numpy().tobytes(), repr(plain).encode(), repr(random.getstate()).encode())
    torch_state, numpy_state, python_state = (hashlib.sha256(image).hexdigest()[:16] for image in images)
    return torch_state, numpy_state, python_state


def main_draws() -> list[float]:
    normal = [np.random.rand(), np.random.randn(), np.random.randn()]
    return [torch.rand(()).item(), torch.randn(()).item(), *normal, random.random(), random.gauss(0, 1)]


def test_on_this_machine_the_streams_are_read_by_memory() -> None:
    assert numpy_global._KEPT_OFFSET is not None
    assert python_global._BLOCK is not None


@pytest.mark.parametrize("key", FROZEN)
def test_a_key_gives_the_states_and_the_draws_that_it_always_gave(key: str, way: str) -> None:
    generators: dict[str, AnyGenerator] = {"t": torch.Generator(), "g": np.random.default_rng(1)}
    generators |= {"p": np.random.Generator(np.random.Philox(1)), "r": random.Random(2), "s": np.random.RandomState(3)}
    disturb()
    seed_streams(bytes.fromhex(key), generators)
    assert main_states() == FROZEN[key][:3]
    assert main_draws() == FROZEN[key].draws
    t, g, p, r, s = (generators[name] for name in "tgprs")
    private: list[Any] = [torch.rand((), generator=t).item(), g.random(), p.random(), r.random(), s.randn()]  # type: ignore
    assert private == FROZEN[key].private


@pytest.mark.parametrize("zeros", [0, 1, 3, 4, 5, 8, 12, 15, 16])
@pytest.mark.parametrize("end", ["zeros first", "zeros last"])
def test_numpys_stream_is_seeded_as_by_its_own_function_also_where_words_of_the_key_are_zero(
    zeros: int, end: str
) -> None:
    # Python's seeding drops zero words at the end of a key, NumPy's does not.
    filled = bytes(range(1, 17 - zeros))
    key = bytes(zeros) + filled if end == "zeros first" else filled + bytes(zeros)
    np.random.seed(np.frombuffer(key, dtype="<u4"))
    expected = main_states()[1]
    disturb()
    numpy_global.seed_numpy(key, numpy_global.seeded_numpy_state(key))
    assert main_states()[1] == expected


@pytest.mark.parametrize("kept", ["nothing kept", "normal values kept"])
@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 1001])
def test_the_main_streams_are_put_back_to_the_bit(way: str, kept: str, drawn: int) -> None:
    seed_streams(bytes(range(16)))
    np.random.bytes(4 * drawn)
    random.getrandbits(32 * drawn)
    torch.rand(drawn)
    if kept == "normal values kept":
        disturb()
    before = main_states()
    with saved_streams():
        assert main_states() == before
        seed_streams(bytes(16))
        disturb()
    assert main_states() == before


@contextmanager
def another_bit_generator() -> Iterator[None]:
    before: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
    try:
        np.random.set_bit_generator(np.random.MT19937(8))  # type: ignore[attr-defined]
        yield
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


def test_a_twister_that_was_put_under_numpys_stream_later_is_the_one_that_is_seeded_and_put_back() -> None:
    seed_streams(bytes(range(16)))
    outer = main_states()
    with another_bit_generator():
        before = main_states()
        with saved_streams():
            seed_streams(bytes(range(16)))
            assert main_states() == outer
        assert main_states() == before
    assert main_states()[1] == outer[1]


def test_a_state_captured_by_memory_can_be_put_back_by_the_public_function(monkeypatch: pytest.MonkeyPatch) -> None:
    disturb()
    before, state = main_states(), numpy_global.get_numpy_state()
    np.random.rand(700)
    monkeypatch.setattr(numpy_global, "_KEPT_OFFSET", None)
    numpy_global.set_numpy_state(state)
    assert main_states() == before
