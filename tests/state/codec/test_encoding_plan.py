"""A tree that is encoded by the plan of the tree before gives what a fresh encoding gives."""

from __future__ import annotations

import collections
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resumable.errors import StateError
from resumable.state.codec import Encoded, encode
from resumable.state.codec.encoding_plan import EncodingPlan, Encodings
from resumable.state.tensors.described import Description
from resumable.state.tensors.facts import bytes_of

SHARED = torch.arange(6.0)
LARGE = torch.arange(17.0)
NAN = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)  # a payload that arithmetic may change


def tree() -> dict[str, Any]:
    ordered = collections.OrderedDict(first=torch.rand(2, 3), second=(torch.rand(4), [1, 2.5, None, "text"]))
    return {
        "state": {"a": {"step": 1, "exp_avg": torch.rand(3)}, "b": {"step": 2, "exp_avg": torch.rand(3)}},
        "ordered": ordered,
        "tied": [SHARED, SHARED, SHARED[:3]],
        "empty": {"list": [], "dict": {}, "tensors": [torch.zeros(0), torch.zeros(0)]},
        "flags": {"yes": True, "no": False},
        "large": {"one": torch.rand(5, 5), "twice": [LARGE, LARGE]},
        "leaves": [nn.Parameter(torch.rand(2)), torch.rand(2).requires_grad_(), torch.rand(2, dtype=torch.complex64)],
    }


def shown(encoded: Encoded) -> object:
    """All that a file is made of."""
    tensors = {key: (bytes(bytes_of(tensor)), tensor.stride()) for key, tensor in encoded.tensors.items()}
    description = encoded.tensors.description
    return (
        json.dumps(encoded.document),
        [*tensors.items()],
        encoded.aliases,
        [*description.facts.items()],
        description.memory,
    )


def fresh(value: object, *, inline: bool = False) -> object:
    return shown(encode(value, key_of=".".join, where="tree", inline=inline))


def planned(encodings: Encodings, value: object, *, inline: bool) -> Encoded:
    return encodings.encode(value, key_of=".".join, where="tree", inline=inline)


def set_at(value: Any, path: list[Any], new: object) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(
    ("path", "then", "now"),
    [
        (["state", "b", "step"], 2, 3),
        (["state", "b", "step"], 2, 2**70),
        (["state", "a", "step"], 0.0, -0.0),
        (["state", "a", "step"], 1.0, math.nan),
        (["state", "a", "step"], math.nan, struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0]),
        (["flags", "yes"], True, False),
        (["ordered", "second"], (1, [2, "a"]), (1, [3, "a"])),
        (["state", "a", "exp_avg"], torch.zeros(3), torch.ones(3)),
        (["tied"], [SHARED, SHARED], [torch.zeros(6)] * 2),
        (["state", "a", "step"], torch.tensor(1.0), torch.tensor(2.0)),
        (["state", "a", "step"], torch.tensor(0.0), torch.tensor(-0.0)),
        (["state", "a", "step"], torch.tensor([math.nan]), NAN),
        (["state", "a", "step"], nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))),
        (["state", "a", "step"], torch.zeros(2).requires_grad_(), torch.ones(2).requires_grad_()),
        (["state", "a", "step"], torch.zeros(2, 3).t(), torch.ones(2, 3).t()),
        (["state", "a", "step"], torch.zeros(8)[::2], torch.ones(8)[::2]),
        (["state", "a", "step"], torch._neg_view(torch.zeros(2)), torch._neg_view(torch.ones(2))),
        (["large", "one"], torch.zeros(5, 5), torch.ones(5, 5)),
    ],
)
def test_values_that_change_in_the_same_structure_are_encoded_by_the_plan(
    path: list[Any], then: Any, now: Any, inline: bool
) -> None:
    before, after = tree(), tree()
    set_at(before, path, then)
    set_at(after, path, now)
    encodings = Encodings()
    planned(encodings, before, inline=inline)
    plan = encodings._plans["tree"]
    assert plan is not None
    for value in (after, before, after):
        assert shown(planned(encodings, value, inline=inline)) == fresh(value, inline=inline)
        assert encodings._plans["tree"] is plan


class Text(str):
    pass


def renamed(value: dict[str, Any]) -> None:
    value["state"]["c"] = value["state"].pop("b")


def reordered(value: dict[str, Any]) -> None:
    value["state"]["a"] = value["state"].pop("a")


def tied(value: dict[str, Any]) -> None:
    value["state"]["a"]["exp_avg"] = value["state"]["b"]["exp_avg"]


def written_by_autograd(value: dict[str, Any]) -> None:
    value["leaves"][1] = value["leaves"][1] * 2


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a key more": lambda value: value.update(more=1),
    "a key less": lambda value: value.pop("flags"),
    "another key": renamed,
    "another order": reordered,
    "a key of a subclass of str": lambda value: value.update(
        state={Text(key): each for key, each in value["state"].items()}
    ),
    "a key that is no name": lambda value: value["flags"].update({1: True}),
    "a longer list": lambda value: value["empty"]["list"].append(0),
    "items that change lists": lambda value: value.update(tied=[SHARED, SHARED], empty={"list": [SHARED[:3]]}),
    "another container": lambda value: value.update(ordered=dict(value["ordered"])),
    "a tuple for a list": lambda value: value.update(tied=tuple(value["tied"])),
    "a float for an int": lambda value: value["state"]["a"].update(step=1.0),
    "an int for a bool": lambda value: value["flags"].update(yes=1),
    "None for an int": lambda value: value["state"]["a"].update(step=None),
    "another text": lambda value: value["ordered"]["second"][1].__setitem__(3, "other"),
    "a text beyond Unicode": lambda value: value["ordered"]["second"][1].__setitem__(3, "\ud800"),
    "a type without a plan": lambda value: value["flags"].update(yes={1, 2}),
    "another dtype": lambda value: value["state"]["a"].update(exp_avg=torch.rand(3).half()),
    "another shape": lambda value: value["state"]["a"].update(exp_avg=torch.rand(3, 1)),
    "other strides": lambda value: value["ordered"].update(first=torch.rand(3, 2).t()),
    "strides of one row": lambda value: value["ordered"].update(first=torch.rand(5)[::2]),
    "a negated view": lambda value: value["state"]["a"].update(exp_avg=torch._neg_view(torch.rand(3))),
    "a conjugated view": lambda value: value["leaves"].__setitem__(2, torch.rand(2, dtype=torch.complex64).conj()),
    "two tensors that become one": tied,
    "one tensor that becomes two": lambda value: value["tied"].__setitem__(1, SHARED.clone()),
    "a view of one that becomes the whole": lambda value: value["tied"].__setitem__(2, SHARED),
    "a parameter for a tensor": lambda value: value["tied"].__setitem__(1, nn.Parameter(SHARED)),
    "a frozen parameter": lambda value: value["leaves"][0].requires_grad_(False),
    "a small tensor that grows": lambda value: value["state"]["a"].update(exp_avg=torch.rand(17)),
    "a large tensor that shrinks": lambda value: value["large"].update(one=torch.rand(4, 4)),
    "an empty tensor that is filled": lambda value: value["empty"]["tensors"].__setitem__(0, torch.ones(1)),
    "a part of a graph": written_by_autograd,
    "a sparse tensor": lambda value: value["state"]["a"].update(exp_avg=torch.eye(3).to_sparse()),
    "a meta tensor": lambda value: value["state"]["a"].update(exp_avg=torch.rand(3, device="meta")),
    "a nested tensor": lambda value: value["state"]["a"].update(exp_avg=torch.nested.nested_tensor([torch.rand(3)])),
    "itself": lambda value: value["state"].update(a=value),
}


def outcome(make: Callable[[], object]) -> object:
    try:
        return make()
    except StateError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_tree_of_another_structure_is_encoded_without_the_plan(change: str, inline: bool) -> None:
    value, encodings = tree(), Encodings()
    planned(encodings, value, inline=inline)
    CHANGES[change](value)
    expected = outcome(lambda: fresh(value, inline=inline))
    for _ in range(2):
        assert outcome(lambda: shown(planned(encodings, value, inline=inline))) == expected


@pytest.mark.parametrize("value", [[{1, 2}], {1: torch.zeros(1)}, [b"bytes"], [collections.OrderedDict({1: 2})]])
def test_there_is_no_plan_for_other_types(value: object) -> None:
    assert EncodingPlan.of(value, encode(value, key_of=".".join, where="tree")) is None


@pytest.mark.parametrize("step", [1, torch.tensor(1.0)])
def test_a_document_that_was_given_out_does_not_change(step: Any) -> None:
    value, encodings = tree(), Encodings()
    value["state"]["a"]["step"] = step
    first = planned(encodings, value, inline=True)
    text = json.dumps(first.document)
    value["state"]["a"]["step"] += 6
    second = planned(encodings, value, inline=True)
    assert json.dumps(first.document) == text != json.dumps(second.document)


def test_a_memory_that_moves_is_read_where_it_is_now() -> None:
    value, encodings = {"weight": torch.zeros(4)}, Encodings()
    encodings.encode(value, key_of=".".join, where="tree")
    value["weight"].data = torch.ones(4)
    tensors = encodings.encode(value, key_of=".".join, where="tree").tensors
    assert tensors.addresses == [value["weight"].data_ptr()]
    assert torch.equal(tensors["weight"], torch.ones(4))


def test_a_part_of_described_tensors_keeps_one_description() -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.int8), "c": torch.zeros(1)}
    described = encode(tensors, key_of=".".join, where="tree").tensors
    some = described.part(frozenset({"a", "c"}))
    assert [*some] == ["a", "c"]
    assert some.description is described.part(frozenset({"c", "a"})).description
    expected = Description.of({key: tensors[key] for key in some})
    assert (some.description.facts, some.description.memory) == (expected.facts, expected.memory)
    assert isinstance(some["a"], Tensor)
