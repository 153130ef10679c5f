"""Small tensors in a document get the keys and records that they would have in a file."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch

from resumable.state.codec import encode
from resumable.state.tensors.inline_records import InlineRecords, key_in_optimizer
from tests.state.roundtrip import save_tree

TREE = {
    "state": {
        "net.weight": {"step": torch.tensor(2.0), "moment": torch.rand(20)},
        "net.bias": {"step": torch.tensor(2.0), "moment": torch.rand(2, 3).t()},
    },
    "ordered": collections.OrderedDict(a=(torch.rand(1), [torch.rand(2)])),
    "numbers": {1: torch.rand(1), "1": torch.rand(2)},
    "parameter": torch.nn.Parameter(torch.rand(2)),
    "leaf": torch.rand(2, requires_grad=True),
    "ü": torch.rand(1),
}


@pytest.mark.parametrize("key_of", [".".join, key_in_optimizer])
def test_they_are_those_of_an_encoding_without_tensors_in_the_document(key_of: Any) -> None:
    stored, inline = save_tree(TREE, key_of=key_of), save_tree(TREE, key_of=key_of, inline=True)
    found = InlineRecords.of(inline.document, key_of, inline.records)
    assert found.document == stored.document
    assert {**inline.records, **found.records}.keys() == stored.records.keys()
    for key, record in found.records.items():
        expected = stored.records[key]
        assert (record.dtype, record.shape, record.strides) == (expected.dtype, expected.shape, expected.strides)
        assert record.digest == expected.digest


def test_a_taken_key_is_not_given_again() -> None:
    document = encode({"a": torch.ones(1)}, key_of=None, where="x").document
    assert [*InlineRecords.of(document, ".".join, {"a"}).records] == ["a~"]


GOOD: dict[str, Any] = {"dtype": "float32", "shape": [1], "strides": None, "data": "AAAAAA=="}


@pytest.mark.parametrize(
    "node",
    [
        {"$inline": 1},
        {"$inline": GOOD | {"more": 1}},
        {"$inline": GOOD | {"dtype": 1}},
        {"$inline": GOOD | {"shape": [True]}},
        {"$inline": GOOD | {"shape": [-1]}},
        {"$inline": GOOD | {"strides": 1}},
        {"$inline": GOOD | {"data": "?"}},
        {"$inline": GOOD, "$tensor": "a"},
        {"$dict": [1, [2, 3, 4]]},
        {"$tuple": 1},
        {"$leaf": 1},
    ],
)
def test_what_is_malformed_stays_for_the_decoder_to_refuse(node: Any) -> None:
    found = InlineRecords.of([node], ".".join, ())
    assert (found.document, found.records) == ([node], {})
