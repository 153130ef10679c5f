"""Containers with modules, optimizers and generators inside: each has its own name, and the rest is filled in place."""

from __future__ import annotations

import collections
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from resumable.errors import RunMismatchError, StateError
from resumable.state.codec.tree import PartName
from resumable.state.objects.choose_adapter import adapt
from tests.state.exactness import exactly
from tests.state.roundtrip import save, transfer


class Pair(NamedTuple):
    net: Any
    seen: Any


def stepped(net: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 2)).sum().backward()
    optimizer.step()
    return optimizer


def launched(seed: int) -> dict[str, Any]:
    """Nested containers of every type, as a program might hold them."""
    torch.manual_seed(seed)
    nets = [nn.Linear(2, 2), nn.Linear(2, 1)]
    return {
        "nets": nets,
        "opts": {"a": stepped(nets[0]), "more": (stepped(nets[1]), {"lr": 0.1 * seed}), 0: [torch.Generator(), seed]},
        "streams": collections.deque([random.Random(seed), np.random.default_rng(seed)], maxlen=4),
        "pair": Pair(nn.BatchNorm1d(2), [seed]),
        "by_kind": collections.defaultdict(list, {"x": [nn.Linear(1, 1)], "y": [seed]}),
        "ordered": collections.OrderedDict(z=nn.Linear(1, 1), n=seed),
    }


NAMES = [
    *("nets", "nets.0", "nets.1", "opts", "opts.a", "opts.more.0", "opts.0.0", "streams", "streams.0", "streams.1"),
    *("pair", "pair.net", "by_kind", "by_kind.x.0", "ordered", "ordered.z"),
]


def test_each_object_has_the_keys_that_lead_to_it_as_its_name() -> None:
    assert list(adapt(launched(1))) == NAMES
    assert list(adapt({"opts": launched(1)["opts"]})) == NAMES[3:7]


def test_everything_comes_back_in_its_place() -> None:
    whole, live = launched(1), launched(2)
    held = [*live["nets"], live["opts"]["more"][1], live["streams"], live["pair"], live["by_kind"]["y"]]
    transfer(whole, live)
    now = [*live["nets"], live["opts"]["more"][1], live["streams"], live["pair"], live["by_kind"]["y"]]
    assert all(one is other for one, other in zip(held, now, strict=True))
    for net, other in zip(whole["nets"], live["nets"], strict=True):
        assert exactly(net.state_dict(), other.state_dict())
    assert live["opts"]["more"][1] == {"lr": 0.1}
    assert (live["opts"][0][1], live["pair"].seen, live["by_kind"]["y"], live["ordered"]["n"]) == (1, [1], [1], 1)
    assert live["streams"][0].random() == whole["streams"][0].random()
    assert exactly(live["opts"]["a"].state_dict(), whole["opts"]["a"].state_dict())


def test_the_order_and_the_members_of_a_container_are_those_of_the_checkpoint() -> None:
    whole, live = [nn.Linear(1, 1) for _ in range(3)], [nn.Linear(1, 1) for _ in range(3)]
    adapters, held = adapt({"nets": whole}), list(live)
    targets = adapt({"nets": live})
    whole.reverse()
    whole.pop()
    for name, adapter in adapters.items():
        targets[name].restore(save(adapter).tree())
    assert [held.index(each) for each in live] == [2, 1]


def test_an_object_that_has_a_name_is_stored_once() -> None:
    net = nn.Linear(1, 1)
    adapters = adapt({"box": [net, {"again": net}], "net": net, "twice": {"a": (other := nn.Linear(1, 1)), "b": other}})
    assert list(adapters) == ["box", "net", "twice", "twice.a"]
    assert adapters["box"].capture() == [PartName("net"), {"again": PartName("net")}]
    assert adapters["twice"].capture() == {"a": PartName("twice.a"), "b": PartName("twice.a")}


@pytest.mark.parametrize("make", [set, lambda values: collections.Counter(values), lambda values: [*values]])
def test_a_container_without_objects_is_captured_as_it_is(make: Any) -> None:
    whole, live = make({1, 2}), make({3})
    assert adapt({"x": whole})["x"].capture() is whole
    transfer({"x": whole}, {"x": live})
    assert live == whole


def test_a_set_of_objects_is_refused_at_the_save() -> None:
    with pytest.raises(StateError, match="Linear cannot be stored"):
        save(adapt({"x": {nn.Linear(1, 1)}})["x"])


def test_a_wrapped_module_is_known_by_what_is_inside() -> None:
    net = nn.Linear(1, 1)
    wrapped = nn.DataParallel(net)
    adapters = adapt({"nets": [wrapped], "net": net})
    assert list(adapters) == ["nets", "net"]
    live = [wrapped]
    transfer({"nets": [wrapped], "net": net}, {"nets": live, "net": net})
    assert live[0] is wrapped


def test_parameters_are_named_by_their_module_in_the_container() -> None:
    nets = [nn.Linear(1, 1)]
    adapters = adapt({"nets": nets, "opts": [torch.optim.SGD(nets[0].parameters())]})
    assert adapters["opts.0"].capture()["groups"][0]["params"] == ["nets.0.weight", "nets.0.bias"]  # type: ignore[index, call-overload]


def cyclic(value: Any) -> Any:
    value["again"] = {"deep": [value]}
    return value


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ({"nets": {"a b": nn.Linear(1, 1)}}, "nets: the key 'a b' leads to a Linear"),
        ({"nets": {"x": {1.5: nn.Linear(1, 1)}}}, "nets.x: the key 1.5 leads to a Linear"),
        ({"nets": {True: nn.Linear(1, 1)}}, "nets: the key True leads to a Linear"),
        ({"nets": {-1: nn.Linear(1, 1)}}, "nets: the key -1 leads to a Linear"),
        ({"nets": {"a.b": torch.Generator()}}, "nets: the key 'a.b' leads to a Generator"),
        ({"nets": {1: nn.Linear(1, 1), "1": nn.Linear(1, 1)}}, "nets.1: two keys give one name"),
        ({"nets": {"A": nn.Linear(1, 1), "a": nn.Linear(1, 1)}}, "differs from nets.A in upper and lower case only"),
        ({"nets": {"a" * 200: nn.Linear(1, 1)}}, "206 bytes, expected at most 181"),
        ({"nets": cyclic({})}, r"nets.again.deep.0: this dict contains itself"),
        ({"nets": (1, 2)}, "tuple has no state_dict"),
        ({"nets": [torch.optim.Adam([torch.rand(1)]).state_dict()]}, "is the state_dict\\(\\) of an optimizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_name_of_its_own_is_refused(objects: dict[str, Any], reason: str) -> None:
    with pytest.raises(StateError, match=reason) as caught:
        adapt(objects)
    assert caught.value.hint


def test_an_object_that_came_later_is_refused_at_the_save() -> None:
    nets = [nn.Linear(1, 1)]
    adapter = adapt({"nets": nets})["nets"]
    nets.append(nn.Linear(1, 1))
    with pytest.raises(StateError, match=r"object\.1: Linear cannot be stored") as caught:
        save(adapter)
    assert "was not there when the Trainer was made" in str(adapter.advice(nets[1]))
    assert caught.value.hint


def test_a_name_that_is_none_is_refused_by_itself() -> None:
    with pytest.raises(StateError, match="a b: cannot be the name of an object"):
        adapt({"a b": [nn.Linear(1, 1)]})


def test_a_tuple_whose_values_are_others_is_refused() -> None:
    with pytest.raises(RunMismatchError, match="a tuple of other values"):
        transfer({"pair": ([1], 2)}, {"pair": ([1], 3)})


def test_a_checkpoint_cannot_put_in_an_object_that_was_not_passed() -> None:
    with pytest.raises(RunMismatchError, match="names an object 'model'"):
        adapt({"notes": {"a": 1}})["notes"].restore({"a": PartName("model")})


def test_a_long_list_of_plain_values_is_not_copied_at_a_save() -> None:
    values = [(index, "text") for index in range(1000)]
    captured = adapt({"box": {"net": nn.Linear(1, 1), "values": values}})["box"].capture()
    assert captured["values"] is values  # type: ignore[index, call-overload]
