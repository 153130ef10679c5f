from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import numpy
import pytest
import torch

from resumable.cli.document_diff import count_values, document_differences
from resumable.state.codec import encode


class Seen(NamedTuple):
    state: int
    reward: float


def document(tree: Any) -> Any:
    return encode(tree, key_of=None, where="x").document


def paths(a: Any, b: Any) -> list[str]:
    return [each.path for each in document_differences(document(a), document(b), "x")]


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        2**100,
        0.5,
        float("nan"),
        1 + 2j,
        "text",
        b"bytes",
        [1, [2]],
        (1, (2,)),
        {"a": 1, 2: 3},
        OrderedDict(a=1),
        Counter("abc"),
        deque([1, (2,)], 3),
        defaultdict(int, {1: 2}),
        Seen(1, 2.0),
        {1, 2},
        numpy.arange(3),
        torch.float16,
        torch.Size([2]),
    ],
)
def test_a_value_is_equal_to_itself(value: Any) -> None:
    assert paths({"v": value}, {"v": value}) == []


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (float("nan"), 0.0),
        ([1], (1,)),
        ("1", 1),
        (None, False),
        ({1}, {2}),
        (b"a", b"b"),
        (deque([1], 2), deque([1], 3)),
        (deque([1]), [1]),
        (defaultdict(int), defaultdict(float)),
        (Seen(1, 2.0), (1, 2.0)),
    ],
)
def test_values_of_another_type_or_bits_are_unequal(a: Any, b: Any) -> None:
    assert paths({"v": a}, {"v": b}) == ["x.v"]


def test_the_path_leads_to_the_value() -> None:
    assert paths({"groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}, {"groups": [{"lr": 0.1, "betas": (0.9, 0.98)}]}) == [
        "x.groups.0.betas.1"
    ]
    assert paths(deque([Seen(1, 2.0)]), deque([Seen(1, 3.0)])) == ["x.0.reward"]
    assert paths(deque([1]), deque([1, 2])) == ["x (length)"]
    assert paths(defaultdict(list, a=[1]), defaultdict(list, a=[2])) == ["x.a.0"]
    assert paths({"milestones": Counter({30: 1})}, {"milestones": Counter({30: 2})}) == ["x.milestones.30"]
    assert paths(OrderedDict([("a", 1)]), OrderedDict([("a", 2)])) == ["x.a"]


def test_a_missing_key_is_told_as_absent() -> None:
    [only_a] = document_differences(document({"a": 1}), document({}), "x")
    assert (only_a.path, only_a.a, only_a.b) == ("x.a", "1", "(absent)")


def test_another_length_is_one_difference() -> None:
    assert paths([1, 2, 3], [1]) == ["x (length)"]


def test_a_long_list_of_numbers_is_one_difference_and_one_value() -> None:
    [found] = document_differences(document(list(range(625))), document(list(range(1, 626))), "x")
    assert found.path == "x.0 (and 624 more of 625)"
    assert count_values(document(list(range(625)))) == 1


def test_order_of_keys_counts_only_where_it_is_state() -> None:
    assert paths({"a": 1, "b": 2}, {"b": 2, "a": 1}) == []
    assert paths(OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)) == ["x (order of keys)"]


def test_values_are_counted_and_containers_are_not() -> None:
    assert count_values(document({"a": [1, 2], "b": (3, {"c": None})})) == 4
