"""Streams: the whole key counts, everything is put back, private generators are found."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import pytest
import torch

from resumable.data.rng import numpy_global
from resumable.data.rng.find_generators import Finder, find_generators
from resumable.data.rng.streams import (
    AT_ONCE,
    PrivateStreams,
    Seeds,
    SeedsAhead,
    saved_streams,
    seed_streams,
    torch_state,
)
from tests.data.kinds import Augmented, draws

KEY = bytes(range(16))
module_rng = np.random.default_rng(0)
keyword_rng = np.random.RandomState(1)


def later_draws() -> list[float]:
    return [*draws(), *draws()]


@pytest.mark.parametrize("byte", range(16))
def test_every_byte_of_the_key_changes_every_stream(byte: int) -> None:
    seed_streams(KEY)
    first = draws()
    seed_streams(KEY[:byte] + b"\xff" + KEY[byte + 1 :])
    assert all(a != b for a, b in zip(first, draws(), strict=True))


def test_the_same_key_gives_the_same_draws_whatever_was_drawn_before() -> None:
    seed_streams(KEY)
    first = later_draws()
    np.random.randn()
    torch.randn(17)
    random.gauss(0, 1)
    seed_streams(KEY)
    assert later_draws() == first


def test_the_expanded_torch_state_is_an_mt19937_that_starts_at_its_words() -> None:
    state = torch_state(KEY)
    words = state.numpy()[24 : 24 + 624 * 8].view(np.uint64).astype(np.uint32)
    numpy = np.random.MT19937()
    numpy.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    generator = torch.Generator()
    generator.set_state(state)
    drawn = torch.empty(2000, dtype=torch.int64).random_(0, 2**20, generator=generator)
    assert generator.initial_seed() == int.from_bytes(KEY[:8], "little") >> 1
    expected = [numpy.random_raw() % 2**20 for _ in range(2000)]
    assert drawn.tolist() == expected


def test_seeding_reports_the_layout_of_this_torch() -> None:
    generator = torch.Generator()
    generator.set_state(torch_state(KEY))
    assert torch.equal(generator.get_state(), torch_state(KEY))


@pytest.mark.parametrize("kept", ["no normal kept", "a normal kept"])
def test_saved_streams_puts_all_back_also_after_an_exception(kept: str) -> None:
    if kept == "a normal kept":
        np.random.randn()
        random.gauss(0, 1)
        torch.randn(3)
    private: dict[str, Any] = {"g": np.random.default_rng(1), "t": torch.Generator()}
    private |= {"r": random.Random(2), "s": np.random.RandomState(3)}

    def all_draws() -> list[Any]:
        g, t, r, s = private.values()
        return [*draws(), random.gauss(0, 1), g.random(), torch.rand((), generator=t).item(), r.random(), s.randn()]

    with saved_streams(private):
        expected = all_draws()

    def fail() -> None:
        with saved_streams(private):
            seed_streams(KEY, private)
            np.random.randn()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all_draws() == expected


def test_the_fast_copy_of_numpys_stream_equals_the_public_state() -> None:
    for kept in (False, True):
        np.random.seed(5)
        np.random.standard_normal(7 if kept else 8)
        public = np.random.get_state()
        state = numpy_global.get_numpy_state()
        assert isinstance(state, numpy_global.NumpyMemory)
        assert str(np.random.get_state()) == str(public)
        np.random.standard_normal(1001)
        numpy_global.set_numpy_state(state)
        assert str(np.random.get_state()) == str(public)
        assert any(state.kept) is kept


def test_another_bit_generator_under_numpys_global_stream_is_kept_too() -> None:
    before: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
    try:
        np.random.set_bit_generator(np.random.PCG64(3))  # type: ignore[attr-defined]
        state = numpy_global.get_numpy_state()
        expected = np.random.rand(3).tolist()
        numpy_global.set_numpy_state(state)
        assert np.random.rand(3).tolist() == expected
        seed_streams(KEY)
        first = draws()
        seed_streams(KEY)
        assert draws() == first
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


def test_private_streams_go_on_where_they_stood_and_leave_the_main_ones_alone() -> None:
    private = PrivateStreams(KEY)
    seed_streams(KEY)
    expected = [draws(), draws()]
    np.random.randn()
    with saved_streams():
        undisturbed = draws()
    with private:
        first = draws()
    with saved_streams():
        assert draws() == undisturbed
    with private:
        second = draws()
    assert [first, second] == expected
    assert draws() == undisturbed


def test_generators_are_found_wherever_people_keep_them() -> None:
    captured = torch.Generator()

    def with_closure(x: Any, *, rng: Any = keyword_rng) -> Any:
        return x, captured, rng

    def with_global(x: Any) -> Any:
        return x + module_rng.random()

    class Slotted:
        __slots__ = ("rng",)

        def __init__(self) -> None:
            self.rng = random.Random(0)

    class Held:
        shared = np.random.default_rng(9)

        def __init__(self) -> None:
            self.dataset = Augmented()
            self.transforms = {"a": functools.partial(with_closure, rng=random.Random(4)), "b": [Slotted()]}
            self.itself = self
            self.numpy_global = np.random.mtrand._rand
            self.os_entropy = random.SystemRandom()

    found = find_generators(Held(), with_global)
    kinds = sorted(type(generator).__name__ for generator in found.values())
    assert kinds == ["Generator"] * 5 + ["Random"] * 2 + ["RandomState"]
    assert find_generators(Held(), with_global).keys() == found.keys()


def test_the_finder_notices_rebound_and_new_generators() -> None:
    dataset = Augmented()
    finder = Finder(dataset)
    first = finder.find()
    assert finder.find() is first
    dataset.private = np.random.default_rng(1)
    assert finder.find()["0.private"] is dataset.private
    dataset.late = random.Random(0)  # type: ignore[attr-defined]
    assert "0.late" in finder.find()


def test_a_huge_dataset_is_not_walked_item_by_item() -> None:
    dataset = Augmented()
    dataset.samples = [random.Random(i) for i in range(300)]  # type: ignore[attr-defined]
    assert len(find_generators(dataset)) == 2


def keys_from(first: int, count: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(first, first + count)]


def test_seeds_expanded_ahead_are_those_of_their_keys_in_any_order() -> None:
    ahead = SeedsAhead(lambda count: keys_from(1, count))
    keys = keys_from(0, AT_ONCE)
    for key in (*keys, *reversed(keys), keys[3]):
        seed_streams(key)
        expected = later_draws()
        assert ahead.of(key).run(later_draws) == expected


def test_the_keys_of_many_batches_are_expanded_at_once_and_then_only_set() -> None:
    asked: list[int] = []

    def following(count: int) -> list[bytes]:
        asked.append(count)
        return keys_from(number + 1, count)

    ahead = SeedsAhead(following)
    for number in range(3 * AT_ONCE):
        assert ahead.of(number.to_bytes(16, "big")).key == number.to_bytes(16, "big")
    assert asked == [AT_ONCE - 1] * 3
    assert not ahead._ready


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64])
def test_seeds_expanded_before_another_generator_was_put_under_numpys_stream_seed_that_one(kind: Any) -> None:
    seeds = Seeds(KEY)
    before: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
    try:
        np.random.set_bit_generator(kind(8))  # type: ignore[attr-defined]
        seed_streams(KEY)
        expected = later_draws()
        np.random.rand(7)
        assert seeds.run(later_draws) == expected
        assert np.random.rand(3).tolist() != expected[:3]
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


def test_seeds_are_set_as_often_as_wanted() -> None:
    seeds = Seeds(KEY)
    assert seeds.run(later_draws) == seeds.run(later_draws)
