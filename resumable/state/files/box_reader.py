"""Read any box of a tensor from the pieces in which it is stored, and verify what is used. Independent of storages.

A piece that is needed whole, or is small, is verified by its digest. Of a larger one the reader takes whole ranges of
the file, whose digests are recorded, so that a box of a tensor costs little more than its own bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from resumable.state.files.tensor_reader import Readable, read_pieces
from resumable.state.tensors.boxes import Box, blocks, extent, intersection, refuse_outside, whole
from resumable.state.tensors.facts import TensorFacts, copy_bits, empty, facts_of, row_major
from resumable.state.tensors.record_checks import refuse_other_bools
from resumable.state.tensors.records import Piece, TensorRecord
from resumable.utils.reread import reread
from resumable.utils.threads import in_lanes


@dataclass(frozen=True)
class FileRanges:
    """The XXH3-128 (hex) of each range of a file, from its first byte on: each of `nbytes`, the last one shorter."""

    nbytes: int
    digests: Sequence[str]


def read_box(
    sources: Mapping[str, Readable],
    key: str,
    record: TensorRecord,
    box: Box,
    ranges: Mapping[str, FileRanges],
) -> Tensor:
    """Return a box of one tensor, row-major and in its own memory.

    Args:
        sources: The files by the names in the record, whose pieces are all located.
        key: The key of the tensor, for messages.
        record: The record of the tensor.
        box: The part to read, which may have no elements.
        ranges: The proved digests of the ranges of files, by name. Of other files whole pieces are read.

    Raises:
        ValueError: The bytes differ from those that were saved, or the box does not lie within the tensor.
    """
    refuse_outside(box, record.shape)
    try:
        target = empty(TensorFacts(record.dtype, box.shape))
        parts = _parts(record, box, target)
        entire = [part for part in parts if part.is_entire]
        read_pieces(sources, key, [(part.piece, part.target) for part in entire])
        partial = [part for part in parts if not part.is_entire]
        readers = max((source.readers for source in sources.values()), default=1)
        in_lanes(lambda part: _read_part(sources, key, part, ranges), partial, readers)
    except (RuntimeError, OverflowError) as error:  # torch raises these for an impossible size
        raise ValueError(str(error)) from error
    return target


@dataclass(frozen=True)
class _Part:
    """The needed part `box` of a piece of this shape, and the memory for it."""

    piece: Piece
    shape: tuple[int, ...]
    box: Box
    target: Tensor

    @property
    def is_entire(self) -> bool:
        return self.box.shape == self.shape

    @property
    def nbytes(self) -> int:
        """Return the size of the whole piece."""
        return whole(self.shape).elements * self.target.element_size()


def _parts(record: TensorRecord, box: Box, target: Tensor) -> list[_Part]:
    parts = []
    for piece in record.pieces:
        held = piece.box or whole(record.shape)
        common = intersection(held, box)
        if common is not None:
            parts.append(_Part(piece, held.shape, common.within(held), target[common.within(box).slices]))
    return parts


def _read_part(sources: Mapping[str, Readable], key: str, part: _Part, ranges: Mapping[str, FileRanges]) -> None:
    name, begin = part.piece.blob, part.piece.begin
    if name is None or begin is None:
        raise ValueError(f"tensor {key!r}: not located")
    if name not in ranges or part.nbytes <= ranges[name].nbytes:
        piece = torch.empty(part.shape, dtype=part.target.dtype)
        read_pieces(sources, key, [(part.piece, piece)])
        copy_bits(part.target, piece[part.box.slices])
        return
    file = _ProvedFile(sources[name], ranges[name])
    width, strides = part.target.element_size(), row_major(part.shape)
    for block in blocks(part.box, part.shape, ranges[name].nbytes // width):
        first, end = extent(block, part.shape)
        flat = torch.empty((end - first) * width, dtype=torch.uint8)
        file.read(flat.numpy().data, begin + first * width)
        refuse_other_bools(key, flat, facts_of(part.target))
        stored = flat.view(part.target.dtype).as_strided(block.shape, strides)
        copy_bits(part.target[block.within(part.box).slices], stored)


class _ProvedFile:
    """Reads bytes of a file out of ranges that it verifies; keeps the last range."""

    def __init__(self, source: Readable, ranges: FileRanges) -> None:
        self._source = source
        self._ranges = ranges
        self._room = memoryview(bytearray(min(ranges.nbytes, source.size)))
        self._number = -1  # of the range in `_room`

    def read(self, buffer: memoryview, begin: int) -> None:
        """Fill all of `buffer` with the bytes from `begin` on."""
        filled = 0
        while filled < len(buffer):
            number, skipped = divmod(begin + filled, self._ranges.nbytes)
            part = self._range(number)[skipped : skipped + len(buffer) - filled]
            if not part:
                raise ValueError(f"byte {begin + filled}: behind the end of the file")
            buffer[filled : filled + len(part)] = part
            filled += len(part)

    def _range(self, number: int) -> memoryview:
        start = number * self._ranges.nbytes
        room = self._room[: max(self._source.size - start, 0)]
        if number != self._number and room:
            reread([self._source], lambda: self._digest(room, start), lambda found: self._check(number, found))
            self._number = number
        return room

    def _digest(self, room: memoryview, start: int) -> str:
        self._source.read(room, start)
        return xxhash.xxh3_128_hexdigest(room)

    def _check(self, number: int, digest: str) -> None:
        if self._ranges.digests[number] != digest:
            raise ValueError(f"{self._source.name}: range {number}: digest differs")
