"""Locate tensors by the headers of their files, where the records do not. Independent of storages."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from resumable.state.files.tensor_reader import Readable
from resumable.state.tensors.record_checks import checked_locations
from resumable.state.tensors.records import Piece, TensorRecord
from resumable.state.tensors.safetensors_layout import MAX_HEADER_BYTES, Slice, header_of, parse_table
from resumable.utils.reread import reread

_PREFIX = struct.Struct("<Q")
_HEAD_BYTES = 64 * 2**10  # most headers are shorter: one read


class ObjectFile(Readable, Protocol):
    """One file of an object, with a recorded digest."""

    def verify(self) -> None:
        """Read all of it, and compare its digest."""


def located(sources: Sequence[ObjectFile], records: Mapping[str, TensorRecord]) -> dict[str, TensorRecord]:
    """Return the records of an object with the location of each tensor.

    The digests of tensors prove no header. So a file is read and verified as a whole, unless its header is the one that
    this program writes for tensors at these locations.

    Raises:
        ValueError: A tensor is in none of the files, in two, or has other facts; or a file is damaged.
    """

    def parse(heads: list[bytearray]) -> tuple[dict[str, TensorRecord], list[ObjectFile]]:
        headers = [_slices(source, head) for source, head in zip(sources, heads, strict=True)]
        places = checked_locations(headers, records)
        unproved = [
            source
            for number, (source, head, slices) in enumerate(zip(sources, heads, headers, strict=True))
            if not _is_ours(head, slices)
            or slices.keys() != {key for key, place in places.items() if place[0] == number}
        ]
        found = {
            key: _at(record, sources[places[record.alias or key][0]].name, places[record.alias or key][1])
            for key, record in records.items()
        }
        return found, unproved

    found, unproved = reread(sources, lambda: [read_head(source) for source in sources], parse)
    for source in unproved:
        source.verify()
    return found


def read_head(source: Readable) -> bytearray:
    """Return the first bytes of a file, with its complete header if that is within the limits of the format."""
    head = bytearray(min(_HEAD_BYTES, source.size))
    source.read(memoryview(head), 0)
    length = _PREFIX.unpack_from(head)[0] if len(head) >= _PREFIX.size else 0
    missing = _PREFIX.size + length - len(head)
    if 0 < missing <= source.size - len(head) and length <= MAX_HEADER_BYTES:
        rest = bytearray(missing)
        source.read(memoryview(rest), len(head))
        head += rest
    return head


def _slices(source: ObjectFile, head: bytearray) -> dict[str, Slice]:
    try:
        return parse_table(head, size=source.size)
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error


def _is_ours(head: bytearray, slices: dict[str, Slice]) -> bool:
    return header_of(slices) == head[: _PREFIX.size + _PREFIX.unpack_from(head)[0]]


def _at(record: TensorRecord, file: str, place: Slice) -> TensorRecord:
    return replace(record, pieces=(Piece(record.pieces[0].digest, None, file, place.start),))
