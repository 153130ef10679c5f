"""The loop's own dicts and lists, and private generators: filled in place, exactly."""

from __future__ import annotations

import collections
import operator
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from resumable.errors import RunMismatchError
from resumable.state.codec import decode, encode
from resumable.state.objects import global_rng
from resumable.state.objects.choose_adapter import adapt
from resumable.utils import strict_json
from tests.state.exactness import exactly
from tests.state.roundtrip import transfer


def test_a_dict_gets_exactly_the_keys_of_the_checkpoint_in_their_order() -> None:
    live: dict[Any, Any] = {"extra": 1, "best": 3.0}
    transfer({"p": {"best": float("inf"), "new": [1, (2,)], 3: None}}, {"p": live})
    assert list(live.items()) == [("best", float("inf")), ("new", [1, (2,)]), (3, None)]


def test_every_nested_part_keeps_its_identity() -> None:
    def make(value: float) -> dict[str, Any]:
        return {
            "list": [value, {"deep": torch.full((3,), value)}],
            "array": np.full(3, value),
            "big": np.full(3000, value),
            "set": {value},
            "counter": collections.Counter({"a": int(value)}),
            "pair": (torch.full((2,), value), 1),
        }

    live = make(1)
    held = [live["list"], live["list"][1], live["list"][1]["deep"], live["array"], live["big"], live["pair"][0]]
    transfer({"p": make(2)}, {"p": live})
    now = [live["list"], live["list"][1], live["list"][1]["deep"], live["array"], live["big"], live["pair"][0]]
    assert all(before is after for before, after in zip(held, now, strict=True))
    assert held[2].tolist() == [2, 2, 2]
    assert (live["set"], live["counter"]["a"]) == ({2}, 2)


def test_a_list_grows_and_shrinks_in_place() -> None:
    live = [1, 2, 3]
    transfer({"p": [9]}, {"p": live})
    assert live == [9]
    transfer({"p": [1, 2, 3, 4]}, {"p": live})
    assert live == [1, 2, 3, 4]


def test_one_tensor_under_two_names_stays_one_and_two_stay_two() -> None:
    tensor = torch.rand(2)
    together: dict[str, Any] = {"a": tensor, "b": tensor}
    apart: dict[str, Any] = {"a": torch.zeros(2), "b": torch.ones(2)}
    live: dict[str, Any] = {"a": torch.rand(2), "b": torch.rand(2)}
    transfer({"p": together}, {"p": live})
    assert live["a"] is live["b"]
    transfer({"p": apart}, {"p": live})
    assert (live["a"].tolist(), live["b"].tolist()) == ([0, 0], [1, 1])


def test_a_leaf_that_trains_is_filled_in_place() -> None:
    live = {"z": torch.zeros(2, requires_grad=True)}
    held = live["z"]
    transfer({"p": {"z": torch.ones(2, requires_grad=True)}}, {"p": live})
    assert live["z"] is held
    assert held.tolist() == [1, 1]


class Step(NamedTuple):
    state: Any
    reward: float


def memory(*values: float) -> dict[str, Any]:
    """What a loop of reinforcement learning holds."""
    steps = [Step(torch.full((20,), value), value) for value in values]
    return {
        "recent": collections.deque(steps, maxlen=5),
        "returns": collections.deque(values),
        "visits": collections.defaultdict(int, {index: int(value) for index, value in enumerate(values)}),
        "by_kind": collections.defaultdict(list, {"all": [*values]}),
        "last": steps[-1] if steps else None,
        "nested": [{"deep": (collections.deque([np.full(200, value) for value in values]),)}],
    }


@pytest.mark.parametrize("launched", [(), (1.0,), (1.0, 2.0, 3.0, 4.0, 5.0)])
def test_deques_defaultdicts_and_named_tuples_come_back_in_place(launched: tuple[float, ...]) -> None:
    whole, live = memory(7.0, 8.0), memory(*launched)
    held = [live["recent"], live["visits"], live["by_kind"], live["nested"][0]["deep"][0]]
    transfer({"p": whole}, {"p": live})
    assert exactly(live, whole)
    assert all(map(operator.is_, held, [*(live[key] for key in ("recent", "visits", "by_kind")), held[3]]))
    assert live["last"] is not None
    assert live["last"].state is live["recent"][-1].state, "one tensor is one tensor still"
    live["recent"].extend(range(9))
    assert len(live["recent"]) == 5
    live["visits"]["new"] += 1


@pytest.mark.parametrize(
    ("whole", "live"),
    [
        (collections.deque([1, 2], 3), collections.deque(maxlen=3)),
        (collections.defaultdict(list, {1: [2]}), collections.defaultdict(list)),
        (collections.defaultdict(list, {1: [2]}), collections.defaultdict(int)),
    ],
)
def test_each_is_an_object_by_itself(whole: Any, live: Any) -> None:
    transfer({"p": whole}, {"p": live})
    assert exactly(live, whole)


def test_a_deque_of_another_length_is_refused_and_replaced_inside_of_others() -> None:
    with pytest.raises(RunMismatchError, match="holds a deque of maxlen 3, here is a deque of maxlen 5"):
        transfer({"p": collections.deque([1], 3)}, {"p": collections.deque([1], 5)})
    document = encode(collections.deque([1], 3), key_of=None, where="p").document
    for live, refused in ((collections.deque([1], 5), 1), (collections.deque([2, 3], 3), 0), ([], 0)):
        assert len(adapt({"p": live})["p"].misfits({}, document)) == refused
    live = {"a": collections.deque([1], 5)}
    transfer({"p": {"a": collections.deque([1], 3)}}, {"p": live})
    assert live["a"].maxlen == 3


@pytest.mark.parametrize("make", [lambda: [1.0], lambda: {"a": [1]}, lambda: np.ones(4), lambda: np.ones(400)])
def test_one_part_under_two_names_stays_one(make: Any) -> None:
    part, other = make(), make()
    live = {"a": other, "b": {"deep": other}, "c": make()}
    transfer({"p": {"a": part, "b": {"deep": part}, "c": make()}}, {"p": live})
    assert live["a"] is live["b"]["deep"] is other
    assert live["c"] is not other


def test_parts_that_came_to_differ_are_two() -> None:
    other = [0]
    live = {"a": other, "b": other}
    transfer({"p": {"a": [1], "b": [2]}}, {"p": live})
    assert (live, live["a"] is other) == ({"a": [1], "b": [2]}, True)


def test_large_arrays_that_became_one_while_training_are_one_again() -> None:
    array = np.arange(900.0)
    live: dict[str, Any] = {"now": np.zeros(900), "best": None}
    held = live["now"]
    transfer({"p": {"now": array, "best": array}}, {"p": live})
    assert live["best"] is live["now"] is held


def test_a_list_where_the_checkpoint_holds_a_dict_is_refused() -> None:
    with pytest.raises(RunMismatchError, match="the checkpoint holds a dict, here is a list"):
        transfer({"p": {}}, {"p": []})


@pytest.mark.parametrize(
    "make",
    [
        torch.Generator,
        np.random.default_rng,
        lambda: np.random.Generator(np.random.MT19937()),
        lambda: np.random.Generator(np.random.Philox()),
        lambda: np.random.Generator(np.random.SFC64()),
        np.random.RandomState,
        random.Random,
    ],
)
def test_a_private_generator_goes_on_as_if_nothing_had_happened(make: Any) -> None:
    def draw(generator: Any) -> list[float]:
        if isinstance(generator, torch.Generator):
            return torch.randn(5, generator=generator).tolist()
        draws: list[float] = [generator.random() for _ in range(3)]
        return [
            *draws,
            *(generator.gauss(0, 1) if isinstance(generator, random.Random) else generator.normal() for _ in range(3)),
        ]

    whole, resumed = make(), make()
    draw(whole)
    transfer({"g": whole}, {"g": resumed})
    assert draw(whole) == draw(resumed)


def test_children_of_a_numpy_generator_go_on_too() -> None:
    whole, resumed = np.random.default_rng(), np.random.default_rng()
    whole.spawn(2)
    transfer({"g": whole}, {"g": resumed})
    assert whole.spawn(1)[0].random() == resumed.spawn(1)[0].random()


def test_another_sort_of_generator_is_refused() -> None:
    with pytest.raises(
        RunMismatchError, match="holds a NumPy generator of PCG64, here is a NumPy generator of MT19937"
    ):
        transfer({"g": np.random.default_rng()}, {"g": np.random.RandomState()})


def draw_globally() -> list[Any]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(3).tolist()]


def test_the_global_streams_go_on_as_if_nothing_had_happened() -> None:
    draw_globally()
    document = encode(global_rng.capture_streams(), key_of=None, where="rng").document
    expected = [draw_globally() for _ in range(3)]
    assert global_rng.restore_streams(decode(strict_json.loads(strict_json.dumps(document)), {})) == []
    assert [draw_globally() for _ in range(3)] == expected


def test_streams_of_accelerators_that_are_not_here_are_told() -> None:
    tree = global_rng.capture_streams()
    tree["accelerators"] = {"cuda": [torch.zeros(16, dtype=torch.uint8)] * (torch.cuda.device_count() + 1)}
    if torch.cuda.device_count() == 0:
        assert global_rng.restore_streams(tree) == ["cuda:0"]
