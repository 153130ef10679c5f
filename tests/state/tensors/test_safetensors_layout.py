"""The file image: what the format's own library says of it, and what is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from safetensors import deserialize

from resumable.state.tensors.safetensors_layout import Layout, header_of, parse_header


def image(table: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, *, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def test_a_layout_is_read_alike_by_us_and_by_the_library() -> None:
    layout = Layout([("a", "U8", (3,), 3), ("b", "F64", (2,), 16), ("c", "F16", (), 2), ("d", "F32", (0, 4), 0)])
    data = layout.header + bytes(layout.size - len(layout.header))
    assert parse_header(data) == layout.slices
    assert {key: value["shape"] for key, value in deserialize(data)} == {"a": [3], "b": [2], "c": [], "d": [0, 4]}


def test_every_tensor_is_aligned_to_its_item_size() -> None:
    layout = Layout([("a", "U8", (3,), 3), ("b", "F64", (2,), 16), ("c", "F16", (1,), 2)])
    assert len(layout.header) % 64 == 0
    assert layout.slices["b"].start % 8 == 0
    assert layout.slices["c"].start % 2 == 0


def test_what_fills_whole_lines_of_the_caches_begins_at_one_whatever_is_beside_it() -> None:
    items = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2, "BOOL": 1}
    shapes = {"count": "I64", "step": "F32", "odd": "F64", "flag": "BOOL", "half": "BF16", "weight": "F32"}
    sizes = {"count": 1, "step": 1, "odd": 17, "flag": 1, "half": 64, "weight": 48}
    layout = Layout([(key, tag, (sizes[key],), sizes[key] * items[tag]) for key, tag in shapes.items()])
    assert {key for key, place in layout.slices.items() if place.start % 64 == 0} == {"half", "weight", "count"}
    assert all(place.start % items[place.dtype_tag] == 0 for place in layout.slices.values())
    assert header_of(dict(reversed(layout.slices.items()))) == layout.header


@pytest.mark.parametrize(
    "entries",
    [
        [("a", "U8", (3,), 4)],
        [("a", "U9", (3,), 3)],
        [("a", "U8", (1,), 1), ("a", "U8", (1,), 1)],
        [("__metadata__", "U8", (1,), 1)],
    ],
)
def test_a_layout_that_no_reader_would_take_is_refused(entries: list[tuple[str, str, tuple[int, ...], int]]) -> None:
    with pytest.raises(ValueError, match=r"bytes do not hold|unknown dtype|twice, or reserved"):
        Layout(entries)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"1234", "too few"),
        (struct.pack("<Q", 2**60), "a header of"),
        (image(b"[1]"), "not a JSON object"),
        (image(b"{"), "not valid JSON"),
        (image(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":1}', b"x"), "duplicate"),
        (image({"__metadata__": {"a": 1}}), "map of strings"),
        (image({"a": {"dtype": "U8", "shape": [1]}}, b"x"), "exactly dtype"),
        (image({"a": {**entry(0, 1), "more": 1}}, b"x"), "exactly dtype"),
        (image({"a": entry(0, 1, dtype="U9")}, b"x"), "unknown dtype"),
        (image({"a": entry(0, 1, shape=[True])}, b"x"), "malformed"),
        (image({"a": entry(0, 1, shape=[-1])}, b"x"), "malformed"),
        (image({"a": entry(0, 1, shape=[2])}, b"x"), "do not hold"),
        (image({"a": entry(1, 2)}, b"xx"), "begins at byte"),
        (image({"a": entry(0, 2), "b": entry(1, 3)}, b"xxx"), "begins at byte"),
        (image({"a": entry(0, 1)}, b"xx"), "the file at"),
        (image({"a": entry(0, 2)}, b"x"), "the file at"),
    ],
)
def test_a_malformed_image_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_header(data)
