"""The libraries behind a storage draw from a stream of their own, however they name it; the others as before."""

from __future__ import annotations

import random
import sys
from types import ModuleType

import pytest

from resumable.store.storage.library_random import separate_random_streams

DRAWS = """
import random
from random import Random, randint, uniform

class Backoff:
    choose = random.choice

    def __init__(self, draw=random.random, *, base=uniform):
        self.wait = draw() + base(0, 1)

def draw():
    drawn = random.random(), randint(0, 9), random.shuffle([1, 2, 3]), Backoff().wait, Backoff.choose([1, 2, 3])
    return *drawn, Random(1).random()
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    made = {name: ModuleType(name) for name in ("botocore.of_this_test", "gcsfs.of_this_test", "users_own")}
    for name, module in made.items():
        exec(DRAWS, vars(module))
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_libraries_of_storages_leave_the_global_stream_alone(modules: dict[str, ModuleType]) -> None:
    separate_random_streams()
    separate_random_streams()
    before = random.getstate()
    for name in ("botocore.of_this_test", "gcsfs.of_this_test"):
        assert modules[name].draw()[-1] == random.Random(1).random()
    assert random.getstate() == before


def test_what_belongs_to_nobody_else_goes_on_to_draw_from_it(modules: dict[str, ModuleType]) -> None:
    separate_random_streams()
    random.seed(7)
    first = modules["users_own"].draw()
    random.seed(7)
    assert modules["users_own"].draw() == first


def test_their_stream_is_not_the_one_that_a_seed_of_the_training_sets(modules: dict[str, ModuleType]) -> None:
    separate_random_streams()
    draws = []
    for _ in range(2):
        random.seed(7)
        draws.append(modules["botocore.of_this_test"].draw())
    assert draws[0] != draws[1]
