"""Digest each tensor of a safetensors file while its bytes are streamed. Imports no torch, and reads nothing itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import xxhash

from resumable.state.tensors.safetensors_layout import MAX_HEADER_BYTES, Slice, parse_table

_PREFIX = struct.Struct("<Q")


class DigestedSlice(NamedTuple):
    """One tensor of a file: its location, and the XXH3-128 of its bytes."""

    place: Slice
    digest: str


class StreamDigester:
    """Digests a safetensors file of `size` bytes, which is passed in order, in pieces of any length.

    Errors are raised at the end only: a wrong read, which is repeated, may look like a malformed file.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._begin()

    def see(self, piece: memoryview, offset: int) -> None:
        """Process the piece that begins at `offset`; a piece at 0 restarts the file."""
        if offset == 0:
            self._begin()
        if self._left is None and self._problem is None:
            self._see_head(piece)
        if self._left is not None:
            self._see_tensors(piece, offset)

    def tensors(self) -> Mapping[str, DigestedSlice]:
        """Return the digested tensors by key.

        Raises:
            ValueError: The bytes are not those of a safetensors file.
        """
        if self._left is None:
            raise self._problem or ValueError(f"{self._size} bytes are too few for its header")
        return self._found

    def _begin(self) -> None:
        self._head = bytearray()
        self._problem: ValueError | None = None  # of the header
        self._left: Iterator[tuple[str, Slice]] | None = None  # the remaining tensors, once the header is complete
        self._current: tuple[str, Slice] | None = None
        self._digest = xxhash.xxh3_128()
        self._found: dict[str, DigestedSlice] = {}

    def _see_head(self, piece: memoryview) -> None:
        """Collect the header, and parse it once it is complete."""
        used = 0
        while missing := self._missing():
            part = piece[used : used + missing]
            if not part:
                return
            self._head += part
            used += len(part)
        try:
            slices = parse_table(self._head, size=self._size)
        except ValueError as error:
            self._problem = error
            return
        self._left = iter(sorted(slices.items(), key=lambda item: (item[1].start, item[1].end)))
        self._current = next(self._left, None)

    def _missing(self) -> int:
        """Return how many bytes of the header are missing; 0 if it exceeds the limits of the format."""
        if len(self._head) < _PREFIX.size:
            return _PREFIX.size - len(self._head)
        length: int = _PREFIX.unpack_from(self._head)[0]
        return _PREFIX.size + length - len(self._head) if length <= MAX_HEADER_BYTES else 0

    def _see_tensors(self, piece: memoryview, offset: int) -> None:
        assert self._left is not None
        end = offset + len(piece)
        while self._current is not None:
            key, place = self._current
            part = piece[max(place.start - offset, 0) : max(place.end - offset, 0)]
            if place.end > end:
                self._digest.update(part)
                return
            if place.start >= offset:
                digest = xxhash.xxh3_128_hexdigest(part)
            else:
                self._digest.update(part)
                digest = self._digest.hexdigest()
                self._digest.reset()
            self._found[key] = DigestedSlice(place, digest)
            self._current = next(self._left, None)
