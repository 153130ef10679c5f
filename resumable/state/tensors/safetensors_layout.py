"""The layout of a safetensors file: its header, and the range of bytes of each tensor. Imports no torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from resumable.utils import strict_json

TAG_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}
MAX_HEADER_BYTES = 64 * 2**20
MAX_HEADER_ITEMS = 3_000_000
LINE_BYTES = 64

_METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}
_PREFIX = struct.Struct("<Q")


class Slice(NamedTuple):
    """One tensor in a file: its tag, its shape, and the range of its bytes in the whole file, `end` excluded."""

    dtype_tag: str
    shape: tuple[int, ...]
    start: int
    end: int


class Head(NamedTuple):
    """A parsed header: the slices by key, in the order of the header, and the metadata strings by name."""

    slices: dict[str, Slice]
    metadata: dict[str, str]


class Layout:
    """The positions of tensors in one file: `header` (prefix, JSON, padding), `slices` in file order, `size` in bytes.

    The format allows no gaps. Tensors that fill whole cache lines come first, so that each begins at a line: the kernel
    copies aligned bytes 1.5 times as fast. Of the rest the widest dtypes come first, so that each tensor is aligned to
    its item size. Equal ones keep their order. `metadata` comes first in the header, in its order. `align` is the unit
    instead of a cache line, where storages write such units directly.
    """

    def __init__(
        self,
        entries: Iterable[tuple[str, str, tuple[int, ...], int]],
        *,
        metadata: Mapping[str, str] | None = None,
        align: int = LINE_BYTES,
    ) -> None:
        ordered = sorted(entries, key=lambda entry: (entry[3] % align != 0, -_item_bytes(entry[1])))
        table: dict[str, dict[str, object]] = {_METADATA: {**(metadata or {}), "format": "pt"}}
        offset = 0
        for key, tag, shape, nbytes in ordered:
            if key in table:
                raise ValueError(f"tensor key {key!r}: used twice, or reserved")
            if nbytes != math.prod(shape) * _item_bytes(tag):
                raise ValueError(f"tensor {key!r}: {nbytes} bytes do not hold {tag}{list(shape)}")
            table[key] = {"dtype": tag, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
            offset += nbytes
        self.header = _header(table, align)
        base = len(self.header)
        del table[_METADATA]
        self.slices = {key: _slice(key, entry, base=base) for key, entry in table.items()}
        self.size = base + offset


def header_of(slices: Mapping[str, Slice]) -> bytes:
    """Return the header that this program writes for tensors at these positions."""
    in_file = sorted(slices.items(), key=lambda item: (item[1].start, item[1].end))
    base = in_file[0][1].start if in_file else 0
    table: dict[str, dict[str, object]] = {_METADATA: {"format": "pt"}}
    for key, place in in_file:
        offsets = [place.start - base, place.end - base]
        table[key] = {"dtype": place.dtype_tag, "shape": list(place.shape), "data_offsets": offsets}
    return _header(table, LINE_BYTES)


def parse_header(data: bytes | bytearray | memoryview) -> dict[str, Slice]:
    """Return the slices of a complete file image; raise `ValueError` for anything the format does not allow."""
    return parse_table(data, size=len(data))


def parse_table(data: bytes | bytearray | memoryview, *, size: int) -> dict[str, Slice]:
    """Return the slices of a file of `size` bytes that begins with `data`, which includes the whole header."""
    return parse_head(data, size=size).slices


def parse_head(data: bytes | bytearray | memoryview, *, size: int) -> Head:
    """Return the slices and the metadata of a file of `size` bytes; otherwise like `parse_table`."""
    if len(data) < _PREFIX.size:
        raise ValueError(f"{len(data)} bytes are too few for a safetensors file")
    (length,) = _PREFIX.unpack_from(data)
    base = _PREFIX.size + length
    if length > MAX_HEADER_BYTES or base > len(data):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    text = bytes(memoryview(data)[_PREFIX.size : base])
    table = strict_json.loads(text, max_bytes=MAX_HEADER_BYTES, max_depth=4, max_items=MAX_HEADER_ITEMS)
    if type(table) is not dict:
        raise ValueError("the header is not a JSON object")
    metadata = table.pop(_METADATA, {})
    _check_metadata(metadata)
    slices = {key: _slice(key, entry, base=base) for key, entry in table.items()}
    _check_coverage(slices, start=base, end=size)
    return Head(slices, metadata)


def _header(table: Mapping[str, object], align: int) -> bytes:
    text = strict_json.dumps(table, max_bytes=MAX_HEADER_BYTES, max_items=MAX_HEADER_ITEMS)
    padding = -(_PREFIX.size + len(text)) % align
    return _PREFIX.pack(len(text) + padding) + text + b" " * padding


def _item_bytes(tag: str) -> int:
    if tag not in TAG_BYTES:
        raise ValueError(f"unknown dtype tag {tag[:80]!r}")
    return TAG_BYTES[tag]


def _slice(key: str, entry: object, *, base: int) -> Slice:
    if type(entry) is not dict or entry.keys() != _ENTRY:
        raise ValueError(f"tensor {key!r}: expected exactly dtype, shape and data_offsets")
    tag, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(tag) is not str or not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {key!r}: malformed dtype, shape or data_offsets")
    start, end = offsets
    if end - start != math.prod(shape) * _item_bytes(tag):
        raise ValueError(f"tensor {key!r}: bytes {start} to {end} do not hold {tag}{shape}")
    return Slice(tag, tuple(shape), base + start, base + end)


def _is_sizes(value: object) -> bool:
    # 64 dimensions is torch's own limit; 2**48 bytes is more than any file.
    if type(value) is not list or len(value) > 64 or not {*map(type, value)} <= {int}:
        return False
    return not value or (min(value) >= 0 and max(value) < 2**48)


def _check_metadata(metadata: object) -> None:
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise ValueError("__metadata__ is not a map of strings")


def _check_coverage(slices: Mapping[str, Slice], *, start: int, end: int) -> None:
    position = start
    for key, entry in sorted(slices.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise ValueError(f"tensor {key!r}: begins at byte {entry.start}, expected {position}")
        position = entry.end
    if position != end:
        raise ValueError(f"the tensors end at byte {position}, the file at {end}")
