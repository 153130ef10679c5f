"""Lists of numbers are arrays in documents: exact, bounded, and read as lists by whoever reads documents."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resumable.cli.document_diff import count_values, document_differences, value_text
from resumable.state.codec import decode, encode
from resumable.state.codec.container_documents import INLINE_LIST_BYTES
from resumable.state.codec.document_paths import named_children, part_at
from resumable.state.codec.document_writer import MAX_NODES
from resumable.state.codec.encoding_plan import Encodings
from resumable.state.objects.choose_adapter import adapt, verify_round_trip
from resumable.state.tensors.number_lists import MIN_NUMBERS
from tests.state.exactness import exactly
from tests.state.roundtrip import save_tree, through

PAYLOAD = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
FLOATS = [0.5, -0.0, 0.0, math.inf, -math.inf, math.nan, PAYLOAD, 5e-324, 1e308] * 8
INTS = [0, 1, -1, 2**63 - 1, -(2**63)] * 13


def of(tree: Any) -> Any:
    return encode(tree, key_of=".".join, where="tree").document


@pytest.mark.parametrize("size", [len(FLOATS), INLINE_LIST_BYTES // 8])
@pytest.mark.parametrize(("values", "tag"), [(FLOATS, "$floats"), (INTS, "$ints")])
def test_every_bit_of_a_list_of_numbers_comes_back(values: list[Any], tag: str, size: int) -> None:
    values = (values * (size // len(values) + 1))[:size]
    saved = save_tree({"history": values})
    assert saved.document["history"].keys() == {tag}
    assert (len(saved.records) == 1) is (size * 8 >= INLINE_LIST_BYTES)
    assert exactly(saved.tree(), {"history": values})
    assert exactly(decode(encode(values, key_of=None, where="rng").document, {}), values)


@pytest.mark.parametrize(
    "values",
    [
        FLOATS[: MIN_NUMBERS - 1],
        [*INTS, 2**63],
        [*INTS, -(2**63) - 1],
        [*INTS, True],
        [True] * 100,
        [*FLOATS, 1],
        [*INTS, 1.0],
        [np.float64(1.5)] * 100,
        [*FLOATS, np.float64(1.5)],
        [*FLOATS, None],
        ["1.0"] * 100,
    ],
)
def test_other_lists_stay_lists(values: list[Any]) -> None:
    assert isinstance(of(values), list)
    assert exactly(through(values), values)


def test_a_tuple_stays_a_tuple() -> None:
    assert exactly(through(tuple(FLOATS)), tuple(FLOATS))


def test_a_list_may_have_more_numbers_than_a_document_has_values() -> None:
    values = [float(number) for number in range(MAX_NODES + 1)]
    assert through(values) == values


def array(dtype: str, shape: list[int], data: bytes) -> dict[str, Any]:
    return {"$ndarray": {"dtype": dtype, "shape": shape, "order": "C", "data": base64.b64encode(data).decode()}}


@pytest.mark.parametrize(
    "document",
    [
        {"$floats": "AAAA"},
        {"$floats": [1.0]},
        {"$floats": {}},
        {"$floats": {"$list": []}},
        {"$floats": array("<i8", [1], bytes(8))},
        {"$floats": array(">f8", [1], bytes(8))},
        {"$floats": array("<f4", [2], bytes(8))},
        {"$floats": array("<f8", [1, 1], bytes(8))},
        {"$floats": array("<f8", [], bytes(8))},
        {"$floats": array("<f8", [2**40], bytes(8))},
        {"$ints": array("<f8", [1], bytes(8))},
        {"$ints": array("<u8", [1], bytes(8))},
        {"$ints": {"$array": "gone"}},
        {"$ints": {"$array": "two"}},
        {"$ints": {"$tensor": "one"}},
        {"$floats": {"$floats": array("<f8", [1], bytes(8))}},
        [{"$ints": {"$array": "one"}}, {"$ints": {"$array": "one"}}],
    ],
)
def test_a_document_of_something_else_is_refused(document: Any) -> None:
    tensors: dict[str, Tensor] = {"one": torch.zeros(3, dtype=torch.int64), "two": torch.zeros(1, 3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"the document|0|1"):
        decode(document, tensors)


def test_paths_lead_to_the_items() -> None:
    document = of({"history": FLOATS})
    assert len(named_children(document["history"])) == len(FLOATS)
    part = part_at(document, "history.6")
    assert part is not None
    assert exactly(decode(part.document, {}), PAYLOAD)


def test_a_difference_names_the_item() -> None:
    ints, others = list(range(100)), [*range(99), 7]
    (found,) = document_differences(of({"history": ints}), of({"history": others}), "loop")
    assert (found.path, found.a, found.b) == ("loop.history.99", "99", "7")
    (found,) = document_differences(of({"history": ints}), of({"history": ints[:80]}), "loop")
    assert (found.path, found.a, found.b) == ("loop.history (length)", "100", "80")
    assert count_values(of(ints)) == 1
    assert value_text(of(FLOATS)) == value_text([*encode(FLOATS, key_of=None, where="", arrays=False).document])  # type: ignore[misc]


@pytest.mark.parametrize("values", [FLOATS, INTS])
def test_a_list_of_version_2_does_not_differ_from_the_array(values: list[Any]) -> None:
    before = encode({"history": values}, key_of=None, where="tree", arrays=False).document
    assert isinstance(before, dict)
    assert isinstance(before["history"], list)
    assert list(document_differences(before, of({"history": values}), "loop")) == []


@pytest.mark.parametrize("size", [100, INLINE_LIST_BYTES // 8])
def test_a_live_list_is_compared_with_what_version_2_wrote(size: int) -> None:
    live = {"history": [float(number) for number in range(size)]}
    adapter = adapt({"loop": live})["loop"]
    before = encode(live, key_of=adapter.key_of, where="loop", arrays=False)
    assert not before.tensors
    verify_round_trip(adapter, before.document, {})
    live["history"][70] = -0.0
    with pytest.raises(Exception, match=r"loop\.history\.70: stored 70\.0, here -0\.0"):
        verify_round_trip(adapter, before.document, {})


def test_a_live_list_is_compared_with_what_was_written() -> None:
    live = {"history": [float(number) for number in range(100)]}
    adapter = adapt({"loop": live})["loop"]
    document = of(live)
    verify_round_trip(adapter, document, {})
    live["history"][70] = 1.5
    with pytest.raises(Exception, match=r"loop\.history\.70: stored 70\.0, here 1\.5"):
        verify_round_trip(adapter, document, {})


def test_a_restore_fills_the_list_in_place() -> None:
    live: dict[str, list[float]] = {"history": [1.0]}
    history = live["history"]
    adapter = adapt({"loop": live})["loop"]
    adapter.restore(through({"history": FLOATS}))
    assert live["history"] is history
    assert exactly(history, FLOATS)


@pytest.mark.parametrize(("then", "now"), [(2**64, 2), (1.5, 1)])
def test_a_list_that_becomes_an_array_is_one_in_the_next_save(then: Any, now: Any) -> None:
    values, encodings = {"history": [*range(100)]}, Encodings()
    values["history"][3] = then
    encodings.encode(values, key_of=".".join, where="tree")
    values["history"][3] = now
    assert encodings.encode(values, key_of=".".join, where="tree").document == of(values)
