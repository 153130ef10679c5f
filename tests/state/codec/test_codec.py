"""Plain values and tensors through the codec: the very same types and bits, or a refusal that names the path."""

from __future__ import annotations

import collections
import enum
import functools
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given

from resumable.errors import StateError
from resumable.state.codec import decode, encode
from resumable.state.codec.document_writer import MAX_DOCUMENT_DEPTH
from resumable.utils import strict_json
from tests.state.exactness import exactly, trees
from tests.state.roundtrip import save_tree, through


class Pair(NamedTuple):
    first: int
    second: int


class Remembering(Pair):
    """A named tuple with attributes beside its fields."""


class Ours(collections.deque[int]):
    """A deque of the user's, which may hold more than its items."""


def remembering() -> Remembering:
    made = Remembering(1, 2)
    made.note = "lost"  # type: ignore[attr-defined]
    return made


class Colour(enum.IntEnum):
    RED = 1


@given(trees)
def test_every_plain_tree_comes_back_exactly(tree: Any) -> None:
    assert exactly(through(tree), tree)


@given(trees)
def test_every_tree_comes_back_exactly_with_small_tensors_in_the_document(tree: Any) -> None:
    assert exactly(through(tree, inline=True), tree)


@given(trees)
def test_without_a_blob_everything_stands_in_the_document(tree: Any) -> None:
    document = encode(tree, key_of=None, where="rng").document
    assert exactly(decode(strict_json.loads(strict_json.dumps(document)), {}), tree)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        math.nan,
        struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0],
        complex(math.nan, -0.0),
        10**6000,
        -(10**6000),
        True,
        1,
        1.0,
        "\ud800 alone",
        {"\udfff": 1},
        {"$tensor": "not a tag"},
        {"$": {}},
        {1: "a", "1": "b", None: "c", 2.5: "d", (1, "x"): "e", True + 1: "f"},
        collections.Counter({2: 2, 4: 1}),
        collections.OrderedDict([("b", 1), ("a", 2)]),
        b"\x00" * 5000,
        torch.float8_e4m3fn,
        torch.Size([2, 3]),
        torch.device("cuda:1"),
        np.float32(1.5),
        np.str_("name"),
        np.bool_(True),
        np.datetime64("2024-01-01T00:00:00"),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(600, dtype=">f4"),
        np.array(["a", "bcd"]),
        np.zeros((0, 3)),
        np.array(3.5),
        np.array([], dtype="<U0"),
        np.arange(1000, dtype=np.uint64).reshape(10, 100),
        np.asfortranarray(np.arange(1000.0).reshape(10, 100)),
        np.arange(1000.0)[::-1],
        np.arange(1000, dtype=np.complex128)[::2],
        np.random.default_rng(3).bit_generator.state,
        np.random.RandomState(3).get_state(legacy=False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_each_kind_comes_back_exactly(value: Any) -> None:
    assert exactly(through(value), value)


def test_large_arrays_and_bytes_go_to_the_blob_and_small_ones_to_the_document() -> None:
    saved = save_tree({"big": np.zeros(1000), "small": np.zeros(3), "bytes": b"x" * 2000})
    assert set(saved.records) == {"big", "bytes"}


def test_fortran_order_of_a_large_array_comes_back() -> None:
    assert through(np.asfortranarray(np.zeros((50, 40)))).flags.f_contiguous


def test_a_set_is_stored_in_the_same_order_whatever_its_history() -> None:
    forward, backward = {f"key{i}" for i in range(50)}, {f"key{i}" for i in reversed(range(50))}
    assert encode(forward, key_of=None, where="x") == encode(backward, key_of=None, where="x")


def test_small_tensors_without_an_alias_stand_in_the_document() -> None:
    small, shared = torch.rand(16), torch.rand(4)
    tree = {
        "step": torch.tensor(3.0),
        "small": small,
        "parameter": torch.nn.Parameter(torch.rand(2)),
        "leaf": torch.rand(2, requires_grad=True),
        "empty": torch.empty(0, 3),
        "transposed": torch.rand(2, 3).t(),
        "bool": torch.tensor([True]),
        "half": torch.rand(32, dtype=torch.float16),
        "large": torch.rand(17),
        "one": shared,
        "apart": [torch.rand(1), small.view(4, 4)],
        "other": shared.detach(),
    }
    saved = save_tree(tree, inline=True)
    assert {key: record.alias for key, record in saved.records.items()} == {"large": None, "one": None, "other": "one"}
    found = saved.tree()
    assert exactly(found, tree)
    assert found["one"] is found["other"]
    assert saved.document["parameter"].keys() == {"$parameter"}
    assert saved.document["leaf"]["$leaf"].keys() == {"$inline"}


def test_tensors_that_are_one_are_stored_once_and_come_back_as_one() -> None:
    weight = torch.rand(3, 4)
    saved = save_tree({"a": weight, "b": weight.detach(), "c": weight.t(), "d": weight.clone()})
    assert {key: record.alias for key, record in saved.records.items()} == {"a": None, "b": "a", "c": None, "d": None}
    tree = saved.tree()
    assert tree["a"] is tree["b"]
    assert tree["c"].stride() == (1, 4)


def test_paths_that_read_alike_get_keys_of_their_own() -> None:
    tree = {
        "a.b": torch.tensor(1),
        "a": {"b": torch.tensor(2)},
        "__metadata__": torch.tensor(3),
        "\ud800": torch.ones(1),
    }
    back = through(tree)
    assert (int(back["a.b"]), int(back["a"]["b"]), int(back["__metadata__"])) == (1, 2, 3)


def test_parameters_and_leaves_keep_their_type_and_flag() -> None:
    weight = torch.nn.Parameter(torch.rand(2))
    tree = {"p": weight, "again": weight, "frozen": torch.nn.Parameter(torch.rand(2), requires_grad=False)}
    back = through({**tree, "leaf": torch.rand(2, requires_grad=True)})
    assert type(back["p"]) is torch.nn.Parameter
    assert back["p"].requires_grad
    assert back["p"] is back["again"]
    assert type(back["frozen"]) is torch.nn.Parameter
    assert not back["frozen"].requires_grad
    assert type(back["leaf"]) is torch.Tensor
    assert back["leaf"].requires_grad


def cyclic(value: Any = None) -> Any:
    value = [] if value is None else value
    value.append({"again": value})
    return value


def deep() -> list[Any]:
    return functools.reduce(lambda inner, _: [inner], range(MAX_DOCUMENT_DEPTH + 1), [])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (len, "cannot be stored"),
        (lambda: 0, "function cannot be stored"),
        (int, "type cannot be stored"),
        (remembering(), "Remembering cannot be stored"),
        (Colour.RED, "Colour cannot be stored"),
        (collections.defaultdict(lambda: 0), "a defaultdict of <lambda> cannot be stored"),
        (collections.defaultdict(collections.deque), "a defaultdict of deque cannot be stored"),
        (Ours([1]), "Ours cannot be stored"),
        (torch.max(torch.ones(2), dim=0), "max cannot be stored"),
        (bytearray(b"x"), "bytearray cannot be stored"),
        (Path("x"), "PosixPath cannot be stored"),
        (object(), "object cannot be stored"),
        (np.array([object()]), "dtype object"),
        (np.zeros(2, dtype=[("a", "i4")]), "cannot be stored"),
        (np.ma.masked_array([1]), "MaskedArray cannot be stored"),
        (torch.ones(2).to_sparse(), "sparse_coo tensor"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized tensor"),
        (torch.nested.nested_tensor([torch.ones(2)]), "nested tensor"),
        (torch.ones(2, device="meta"), "meta device"),
        (torch.ones(2, requires_grad=True) * 2, "autograd graph"),
        (torch.nn.parameter.UninitializedParameter(), "UninitializedParameter"),
        (cyclic(collections.deque()), "contains itself"),
        ({torch.ones(1): 1}, "as a key or in a set"),
        (cyclic(), "contains itself"),
        (deep(), "nested deeper"),
        ([0, ""] * 500_001, "more than 1000000 values"),
        (["x" * 2**20] * 33, "bytes of text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_come_back_is_refused_with_its_path_and_a_hint(value: Any, reason: str) -> None:
    with pytest.raises(StateError, match=reason) as caught:
        encode({"state": {3: [value]}}, key_of=".".join, where="optimizer")
    assert str(caught.value).startswith("optimizer.state.3.0")
    assert caught.value.hint


def test_whatever_is_stored_is_within_the_bounds_of_the_parser() -> None:
    tree = functools.reduce(lambda inner, _: {0: (inner,)}, range(9), 0)
    assert exactly(through(tree), tree)


@pytest.mark.parametrize(
    "document",
    [
        {"$unknown": 1},
        {"$tensor": "absent"},
        {"$tensor": 1},
        {"$tuple": [], "more": 1},
        {"a": 1, "$tuple": []},
        {"$tuple": {}},
        {"$dict": [[1]]},
        {"$dict": [[1, 2], [1, 3]]},
        {"$dict": [[[1], 2]]},
        {"$deque": []},
        {"$deque": {"items": []}},
        {"$deque": {"maxlen": None, "items": [], "more": 1}},
        {"$deque": {"maxlen": 1, "items": [1, 2]}},
        {"$deque": {"maxlen": True, "items": [1]}},
        {"$deque": {"maxlen": -1, "items": []}},
        {"$deque": {"maxlen": 2**63, "items": []}},
        {"$deque": {"maxlen": {"$int": "0x1"}, "items": []}},
        {"$deque": {"maxlen": None, "items": {}}},
        {"$deque": {"maxlen": None, "items": {"$tuple": []}}},
        {"$defaultdict": {"factory": "eval", "items": {}}},
        {"$defaultdict": {"factory": ["int"], "items": {}}},
        {"$defaultdict": {"factory": False, "items": {}}},
        {"$defaultdict": {"factory": "int", "items": []}},
        {"$defaultdict": {"factory": "int", "items": {"$ordered": []}}},
        {"$defaultdict": {"items": {}}},
        {"$namedtuple": {"type": 1, "items": {}}},
        {"$namedtuple": {"type": "x.T", "items": []}},
        {"$namedtuple": {"type": "x.T", "items": {"not a field": 1}}},
        {"$namedtuple": {"type": "x.T", "items": {"$dict": [[1, 2]]}}},
        {"$namedtuple": {"type": "x.T", "items": {"$dict": [["a", 2], ["a", 2]]}}},
        {"$object": 1},
        {"$set": [[1]]},
        {"$set": [1, 1]},
        {"$int": "12"},
        {"$int": "0x" + "z"},
        {"$float": "7ff8"},
        {"$float": "not sixteen digi"},
        {"$complex": [1.0]},
        {"$complex": [1, 2]},
        {"$bytes": "?"},
        {"$string": "/w=="},
        {"$dtype": "load"},
        {"$device": "cuda:x"},
        {"$device": "nodevice"},
        {"$size": [-1]},
        {"$size": [2**70]},
        {"$ndarray": {"dtype": "|O", "shape": [1], "order": "C", "data": "AAAAAAAAAAA="}},
        {"$ndarray": {"dtype": "<f8", "shape": [2], "order": "C", "data": "AAAAAAAAAAA="}},
        {"$ndarray": {"dtype": "<f8", "shape": [1], "order": "X", "data": "AAAAAAAAAAA="}},
        {"$ndarray": {"dtype": "<f8", "shape": [0, 2**47, 2**47], "order": "C", "data": ""}},
        {"$ndarray": {}},
        {"$scalar": {"dtype": "<f8", "data": "AAAA"}},
        {"$inline": {"dtype": "float32", "shape": [2], "strides": None, "data": "AAAA"}},
        {"$inline": {"dtype": "float32", "shape": [1], "strides": [7, 7], "data": "AAAAAA=="}},
        {"$inline": {"dtype": "float32", "shape": [2], "strides": [0], "data": "AAAAAAAAAAA="}},
        {"$inline": {"dtype": ["x"], "shape": [1], "strides": None, "data": ""}},
        {"$inline": {"dtype": "qint8", "shape": [0], "strides": None, "data": ""}},
        {"$inline": {"dtype": "uint8", "shape": [0, 2**47, 2**47], "strides": None, "data": ""}},
        {"$leaf": {"a": 1}},
        {"$leaf": {"$inline": {"dtype": "int64", "shape": [0], "strides": None, "data": ""}}},
        (1, 2),
    ],
    ids=str,
)
def test_a_hostile_document_is_a_value_error(document: Any) -> None:
    with pytest.raises(ValueError, match=r"^x"):
        decode({"x": [document]}, {})


def test_more_keys_of_one_hash_than_chance_explains_are_refused() -> None:
    """Each would be compared with all before it: 100,000 of them take hours."""
    colliding = [{"$tuple": [-1 if number >> bit & 1 else -2 for bit in range(10)]} for number in range(1000)]
    for document in ({"$set": colliding}, {"$dict": [[key, 1] for key in colliding]}):
        with pytest.raises(ValueError, match="more keys share one hash than the format allows"):
            decode(document, {})
    assert len(decode({"$set": list(range(100_000))}, {})) == 100_000


@pytest.mark.parametrize(
    "node",
    [
        {"$scalar": {"dtype": "<U1", "data": "////fw=="}},
        {"$ndarray": {"dtype": ">U1", "shape": [1], "order": "C", "data": "fwAAAA=="}},
        {"$scalar": {"dtype": "<m8[0s]", "data": "AAAAAAAAAAA="}},
    ],
)
def test_bits_that_are_no_value_of_their_dtype_are_refused(node: Any) -> None:
    with pytest.raises(ValueError, match="malformed"):
        decode(node, {})


@pytest.mark.parametrize(
    "value",
    [
        {2.0**k: k for k in range(-1074, 1024)},  # as many as floats have of one hash
        {2**k for k in range(1100)},
        np.frombuffer(bytes([0, 1, 2, 255]), dtype=np.bool_),  # as memory that was never filled may be
        np.array(["", "a\U0010ffff"]),
    ],
    ids=["floats", "integers", "bools", "texts"],
)
def test_what_is_unusual_but_written_is_read(value: Any) -> None:
    encoded = encode({"x": value}, key_of=None, where="notes")
    found = decode(encoded.document, {})["x"]
    assert found.tobytes() == value.tobytes() if isinstance(value, np.ndarray) else found == value


@pytest.mark.parametrize(
    "value",
    [
        {2 ** (61 * k) for k in range(100)},
        dict.fromkeys(2 ** (61 * k) for k in range(100)),
        np.frombuffer(b"\xff\xff\xff\x7f", dtype="<U1"),
    ],
    ids=["set", "dict", "texts"],
)
def test_what_would_not_be_read_is_not_written(value: Any) -> None:
    with pytest.raises(StateError, match=r"notes\.x: "):
        encode({"x": value}, key_of=None, where="notes")
