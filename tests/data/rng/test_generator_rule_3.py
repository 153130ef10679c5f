"""Generators in modules and classes of the user's, which code that the walk reaches names."""

from __future__ import annotations

import random
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from resumable.data.rng.find_generators import NEWEST_RULE, find_generators, missing_key_warning
from resumable.data.rng.named_globals import is_users
from tests.data import augment
from tests.data.augment import Jitter, of_cached, of_class, of_object, of_streams, outer, recursive
from tests.data.kinds import FLOAT, Bench

MODEL = nn.Linear(1, 1)
MODEL.rng = random.Random(1)  # type: ignore[assignment]
LOADER = DataLoader([random.Random(1)])  # type: ignore[arg-type]
PLAIN = [1, 2, 3]


def by_function(x: float) -> float:
    return outer(x)


def by_module(x: float) -> float:
    return augment.inner(x) + augment.Jitter.shared.random()


def by_variable(x: float) -> float:
    return x + augment.TORCH.initial_seed() + len(PLAIN)


def by_what_is_large(x: float) -> Any:
    return MODEL, LOADER, torch.rand(1), np.random.rand(), random.random(), x


class Data(Dataset[Any]):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(self.transform(float(index)), dtype=FLOAT)


T = "0.transform.variables."
FOUND: dict[Any, dict[str, Any]] = {
    by_function: {f"{T}outer.variables.inner.globals.RNG": augment.RNG},
    by_module: {
        f"{T}augment.Jitter.shared": Jitter.shared,
        f"{T}augment.inner.globals.RNG": augment.RNG,
    },
    by_variable: {f"{T}augment.TORCH": augment.TORCH},
    of_streams: {
        f"{T}STREAMS.a": augment.STREAMS["a"],
        f"{T}STREAMS.b.0": augment.STREAMS["b"][0],  # type: ignore[index]
    },
    of_object: {f"{T}JITTER.own": augment.JITTER.own, f"{T}JITTER.class Jitter.shared": Jitter.shared},
    of_cached: {f"{T}cached.__wrapped__.variables.inner.globals.RNG": augment.RNG},
    of_class: {f"{T}Jitter.shared": Jitter.shared},
    recursive: {"0.transform.globals.TORCH": augment.TORCH},
    by_what_is_large: {},
}


@pytest.mark.parametrize("transform", FOUND, ids=lambda transform: transform.__name__)
def test_the_variables_of_the_users_modules_are_found_under_frozen_paths(transform: Any) -> None:
    found = find_generators(Data(transform), rule=3)
    assert {path: id(each) for path, each in found.items()} == {k: id(v) for k, v in FOUND[transform].items()}
    assert missing_key_warning(NEWEST_RULE, dataset=Data(transform)) is None


def test_earlier_rules_do_not_find_them_and_their_runs_say_so() -> None:
    for transform in (by_function, by_module, by_variable, of_streams, of_object, of_class):
        assert find_generators(Data(transform), rule=2) == {}
    bench = Bench(generator_rule=2)
    bench.batches(DataLoader(Data(by_function), batch_size=4))
    [line] = bench.said
    assert line.startswith(
        "Data: the random generator dataset.transform.variables.outer.variables.inner.globals.RNG has no key"
    )


def test_batches_are_the_same_whatever_was_drawn_before() -> None:
    batches, state = [], augment.RNG.bit_generator.state
    for workers in (0, 2):
        bench = Bench()
        loader = DataLoader(Data(by_function), batch_size=4, num_workers=workers)
        batches.append(bench.batches(loader)[0])
        bench.data.close()
        assert augment.RNG.bit_generator.state == state, "the program's own draws are not disturbed"
        augment.RNG.random()
        state = augment.RNG.bit_generator.state
    assert all(map(torch.equal, *batches))


@pytest.mark.parametrize("make", [list, tuple, lambda each: dict(enumerate(each))], ids=["list", "tuple", "dict"])
def test_more_generators_than_get_a_key_are_named(make: Any) -> None:
    bench = Bench()
    for count in (300, 300, 256):
        dataset = Data(outer)
        dataset.streams = make([random.Random(number) for number in range(count)])  # type: ignore[attr-defined]
        bench.batches(DataLoader(dataset, batch_size=8))
    assert bench.said == [
        "Data: dataset.streams holds more than 256 items, random generators among them: they have no key, so what they "
        "draw may differ after a resume; keep at most 256 in one container"
    ]


def module(name: str, file: str | None, source: str) -> types.ModuleType:
    made = types.ModuleType(name)
    if file is not None:
        made.__file__ = file
    exec(source, vars(made))
    return made


SOURCE = "import random\nRNG = random.Random(1)\ndef inner(x): return x + RNG.random()\ndef draw(x): return inner(x)\n"


@pytest.mark.parametrize(
    ("name", "file", "found"),
    [
        ("mine.data", "/home/me/project/mine/data.py", True),
        ("__main__", None, True),
        ("notebook", None, True),
        ("theirs.data", "/usr/lib/python3.11/site-packages/theirs/data.py", False),
        ("theirs", "/usr/lib/python3/dist-packages/theirs.py", False),
        ("random", "/usr/lib/python3.11/random.py", False),
        ("resumable.data", "/home/me/resumable/resumable/data/x.py", False),
    ],
)
def test_code_that_is_installed_is_not_the_users(name: str, file: str | None, found: bool) -> None:
    made = module(name, file, SOURCE)
    assert is_users(vars(made)) is found
    assert len(find_generators(Data(made.draw))) == found


def test_the_package_of_main_is_the_users_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module("theirs.data", "/usr/lib/python3.11/site-packages/theirs/data.py", SOURCE)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "theirs.cli", raising=False)
    assert len(find_generators(Data(made.draw))) == 1


def test_an_installed_object_is_followed_where_a_generator_is_near() -> None:
    made = module("theirs", "/usr/lib/python3.11/site-packages/theirs.py", "class Pipeline: pass\n")
    sys.modules["theirs"] = made
    try:
        ours = module("ours", None, "def draw(x): return PIPELINE\n")
        ours.PIPELINE = made.Pipeline()  # type: ignore[attr-defined]
        ours.PIPELINE.rng = random.Random(1)
        assert list(find_generators(Data(ours.draw))) == [f"{T}PIPELINE.rng"]
        ours.PIPELINE.rng = [[[object() for _ in range(60)] for _ in range(60)] for _ in range(2)]
        assert missing_key_warning(NEWEST_RULE, dataset=Data(ours.draw)) is None
    finally:
        del sys.modules["theirs"]
