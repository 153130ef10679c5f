"""Where random generators are found, by each rule: frozen, for a key is made of the path."""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from resumable.data.rng.find_generators import RULES, find_generators
from resumable.data.rng.streams import PrivateStreams, saved_streams, seed_streams
from tests.data.holders import KINDS, Held, Slotted, attribute, begun, closing, drawn

KEY = bytes(range(16))
FROZEN = {
    1: [
        "0.torch",
        "0.shared",
        "0.globals.GLOBAL",
        "0.closure.captured",
        "0.list.0",
        "0.closure.kwdefaults.rng",
        "0.list.1.a",
        "0.method.self.R",
        "0.partial.args.0",
        "0.partial.keywords.key",
        "0.list.1.b._rng",
    ],
    2: [
        "0.torch",
        "0.closure.captured",
        "0.class Held.globals.GLOBAL",
        "0.class Held.shared",
        "0.method.__self__.R",
        "0.list.0",
        "0.closure.kwdefaults.rng",
        "0.partial.args.0",
        "0.partial.keywords.key",
        "0.list.1.a",
        "0.list.1.b._rng",
    ],
    3: [
        "0.torch",
        "0.closure.captured",
        "0.class Held.globals.GLOBAL",
        "0.class Held.shared",
        "0.method.__self__.R",
        "0.list.0",
        "0.closure.kwdefaults.rng",
        "0.partial.args.0",
        "0.partial.keywords.key",
        "0.list.1.a",
        "0.list.1.b._rng",
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_the_paths_of_a_rule_never_change(rule: int) -> None:
    assert list(find_generators(Held(), rule=rule)) == FROZEN[rule]


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_is_found_wherever_people_keep_them(kind: str) -> None:
    make, count = KINDS[kind]
    held = attribute(make())
    found = find_generators(held)
    assert len({id(generator) for generator in found.values()}) == count, found
    again = find_generators(held)
    assert [(path, id(generator)) for path, generator in again.items()] == [(p, id(g)) for p, g in found.items()]


def test_whatever_is_found_can_be_keyed_and_put_back() -> None:
    found = find_generators([attribute(make()) for make, _ in KINDS.values()])
    kinds = {type(generator).__name__ for generator in found.values()}
    assert {"Random", "RandomState", "Generator", "PCG64", "MT19937"} <= kinds
    with saved_streams(found):
        seed_streams(KEY, found)
        keyed = {path: drawn(generator) for path, generator in found.items()}
        seed_streams(KEY, found)
        assert {path: drawn(generator) for path, generator in found.items()} == keyed
    assert len(set(keyed.values())) == len(keyed)


@pytest.mark.parametrize("make", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_a_bare_bit_generator_gets_what_a_generator_over_it_would_get(make: Any) -> None:
    bits, over = make(1), np.random.Generator(make(2))
    seed_streams(KEY, {"g": bits})
    seed_streams(KEY, {"g": over})
    assert bits.random_raw(5).tolist() == over.bit_generator.random_raw(5).tolist()
    before = bits.random_raw()
    with saved_streams({"g": bits}):
        seed_streams(KEY, {"g": bits})
        first = bits.random_raw()
    private = PrivateStreams(KEY, {"g": bits})
    with private:
        assert bits.random_raw() == first
    assert bits.random_raw() not in (before, first)


_KEYS: tuple[Any, ...] = ("b", "a", 3, (1, "x"))


def any_graph(draw: random.Random, levels: int) -> Any:
    """Objects that lead to each other in the ways that the first rule knows, with generators among them."""
    if levels == 0:
        return draw.choice([1, "a", [1, 2], random.Random(1), np.random.default_rng(1), torch.Generator()])

    def below() -> Any:
        return any_graph(draw, draw.randrange(levels))

    held = Held() if draw.random() < 0.1 else attribute(below())
    function = closing(held, below())
    slotted = Slotted()
    slotted._rng = below()
    makers: list[Callable[[], Any]] = [
        lambda: held,
        lambda: slotted,
        lambda: function,
        lambda: [below() for _ in range(4)],
        lambda: {key: below() for key in _KEYS},
        lambda: (below(), held, below()),
        lambda: functools.partial(function, below(), rng=below()),
        lambda: types.MethodType(closing(below(), below()), held),
        lambda: begun(value for value in [below(), below()]),
    ]
    return draw.choice(makers)()


def test_a_later_rule_finds_all_that_an_earlier_one_finds() -> None:
    count = 0
    for seed in range(300):
        root = any_graph(random.Random(seed), 6)
        earlier = find_generators(root, rule=1)
        assert set(map(id, earlier.values())) <= set(map(id, find_generators(root).values()))
        count += len(earlier)
    assert count > 1000
