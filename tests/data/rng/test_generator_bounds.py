"""How far the walk for random generators goes: bounds, sets, and objects whose own code must not run."""

from __future__ import annotations

import gc
import itertools
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from resumable.data.rng.find_generators import NEWEST_RULE, Finder, find_generators, missing_key_warning
from tests.data.holders import Cases, Held, Property, Rand, Slotted, Stack, Table, attribute, drawn
from tests.data.kinds import Bench

# -- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cases", "found"), [(24, 0), (200, 8), (200, 12), (250, 20), (1000, 12)])
def test_data_does_not_use_up_the_bound(cases: int, found: int) -> None:
    dataset = Cases(cases, found)
    assert list(find_generators(dataset)) == ["0.transform.transforms.0.R", "0.transform.transforms.1.R"]
    assert missing_key_warning(NEWEST_RULE, dataset=dataset) is None


class Case:
    def __init__(self, lesions: int) -> None:
        self.lesions = [attribute([number]) for number in range(lesions)]
        self.first = self.lesions[0] if lesions else None


class Objects(Cases):
    """The same with an object for each of all things, which is more than is looked at."""

    def __init__(self, cases: int = 200, found: int = 30) -> None:
        super().__init__(0, 0)
        self.data: Any = [Case(found) for _ in range(cases)]


def test_transforms_come_before_the_objects_of_a_long_list() -> None:
    assert len(find_generators(Objects())) == 2


def test_what_lies_beyond_the_bound_is_told_once_with_its_name() -> None:
    bench = Bench()
    for epoch in range(2):
        for dataset in (Objects(), Objects()):
            for workers in (0, 1):
                bench.batches(DataLoader(dataset, batch_size=8, num_workers=workers), epoch=epoch)
    [line] = bench.said
    assert line.startswith(
        "Objects: holds more objects than are searched for random generators: those from dataset.data."
    )
    assert line.endswith("keep generators in attributes, and not inside of data")
    bench.data.close()


class Endless(IterableDataset[Any]):
    def __init__(self) -> None:
        self.objects = Objects().data

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


@pytest.mark.parametrize("make", [lambda: DataLoader(Endless()), lambda: Endless()], ids=["a stream", "a replay"])
def test_it_is_told_of_every_kind_of_loader(make: Any) -> None:
    bench = Bench()
    bench.batches(make())
    assert len(bench.said) == 1


def test_nothing_is_told_of_data_of_any_size() -> None:
    bench = Bench()
    for dataset in (Cases(250, 20), Cases(10_000, 3), Cases(0, 0)):
        bench.batches(DataLoader(dataset, batch_size=8))
    assert bench.said == []


def test_a_run_of_the_first_rule_tells_what_only_a_later_one_finds() -> None:
    bench = Bench(generator_rule=1)
    for dataset in (Cases(24, 0), Cases(200, 12), Cases(200, 12)):
        bench.batches(DataLoader(dataset, batch_size=8))
    [line] = bench.said
    assert line.startswith(
        "Cases: the random generator dataset.transform.transforms.0.R has no key, for this run began"
    )


def test_the_walk_ends_on_every_shape() -> None:
    itself: list[Any] = []
    itself.append(itself)
    chain: Any = attribute(None)
    for _ in range(10_000):
        chain = attribute(chain)
    wide = attribute([attribute([attribute(list(range(9))) for _ in range(250)]) for _ in range(250)])
    around = Held()
    around.list.append(deque([around, {Rand()}]))
    for shape in (itself, chain, wide, around, gc, find_generators, Bench()):
        find_generators(shape)
    assert missing_key_warning(NEWEST_RULE, chain=chain)
    assert missing_key_warning(NEWEST_RULE, wide=wide)
    assert missing_key_warning(NEWEST_RULE, itself=itself) is None


# -- user code --------------------------------------------------------------------------------------------------------


def fail(*_: Any, **__: Any) -> Any:
    raise AssertionError("code of the object was run")


class Meta(type):
    __hash__ = __eq__ = __getattribute__ = __instancecheck__ = __subclasscheck__ = fail


class Touchy:
    """Whatever it is asked for, it fails."""

    __slots__ = ("__dict__", "slot")

    def __init__(self) -> None:
        object.__setattr__(self, "rng", random.Random(1))
        object.__setattr__(self, "slot", random.Random(2))

    __getattr__ = __getattribute__ = __eq__ = __hash__ = __str__ = __repr__ = __iter__ = __len__ = fail
    __class__ = property(fail)


class Pretending:
    rng = property(fail)
    __dict__ = property(fail)
    __class__ = property(fail)
    __getattr__ = fail


class OfMeta(metaclass=Meta):
    pass


class Fussy(str):
    __slots__ = ()
    __str__ = __repr__ = __lt__ = fail


class KeyFussy:
    __str__ = __repr__ = fail


class Odd(frozenset[Any]):
    __iter__ = __len__ = __contains__ = fail


def test_no_code_of_an_object_runs() -> None:
    def touchy() -> Any:
        return [
            Touchy(),
            Pretending(),
            object.__new__(OfMeta),
            {Fussy("a"): Rand(1), Fussy("b"): Rand(2), KeyFussy(): Rand(3)},
            Odd({Rand(4), Slotted()}),
            {Property(), Rand(5), Rand(6)},
            Stack([Table()]),
        ]

    held = attribute(touchy())
    assert len(find_generators(held)) == 2 + 3 + 2 + (3 + 2) + 2
    Finder(held).find()
    assert find_generators(attribute([Touchy()])).keys() == {"0.it.0.rng", "0.it.0.slot"}


# -- sets -------------------------------------------------------------------------------------------------------------


class Placed(Rand):
    """A transform that says itself where it stands in a set."""

    def __init__(self, seed: int, place: int) -> None:
        super().__init__(seed)
        object.__setattr__(self, "_place", lambda: place)

    def __hash__(self) -> int:
        place: int = self._place()  # type: ignore[attr-defined]
        return place


@pytest.mark.parametrize("sort", [set, frozenset])
def test_a_member_of_a_set_has_the_same_path_wherever_it_stands(sort: Any) -> None:
    paths = set()
    orders = set()
    for places in itertools.permutations(range(3)):
        members = [Placed(seed, place) for seed, place in zip((1, 2, 3), places, strict=True)]
        held = attribute(sort(members))
        orders.add(tuple(member.seed for member in held.it))
        found = find_generators(held)
        seed_of = {id(member.R): member.seed for member in members}
        paths.add(tuple(sorted((path, seed_of[id(generator)]) for path, generator in found.items())))
        for generator in found.values():
            drawn(generator)  # a state that moved on changes no path
        assert find_generators(held).keys() == found.keys()
        assert [id(g) for g in find_generators(held).values()] == [id(g) for g in found.values()]
    assert len(orders) > 1
    assert len(paths) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: random.Random(seed),
        lambda seed: np.random.default_rng(seed),
        lambda seed: np.random.RandomState(seed),
        lambda seed: np.random.PCG64(seed),
        lambda seed: torch.Generator().manual_seed(seed),
    ],
)
def test_bare_generators_in_a_set_are_told_apart_by_how_they_were_made(make: Any) -> None:
    def order(seeds: Any) -> list[int]:
        held = attribute(set())
        made = {}
        for seed in seeds:
            made[seed] = make(seed)
            held.it.add(made[seed])
        seed_of = {id(generator): seed for seed, generator in made.items()}
        return [seed_of[id(generator)] for generator in find_generators(held).values()]

    assert len({tuple(order(seeds)) for seeds in itertools.permutations(range(4))}) == 1
