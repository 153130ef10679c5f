"""Finds out what a safetensors file holds while its bytes pass by; knows neither torch nor where they come from."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import xxhash

from resumable.state.tensors.safetensors_layout import MAX_HEADER_BYTES, Slice, parse_table

_PREFIX = struct.Struct("<Q")


class Held(NamedTuple):
    """One tensor of a file: where it lies, and the XXH3-128 of its bytes."""

    place: Slice
    digest: str


class PassingFile:
    """A safetensors file of `size` bytes, each of which is shown once, in order, in pieces of any length.

    Nothing is raised while they pass: bytes that were read wrong may look like a malformed file.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._begin()

    def see(self, piece: memoryview, offset: int) -> None:
        """Look at the piece that begins at `offset`. One at 0 begins the file once more."""
        if offset == 0:
            self._begin()
        if self._left is None and self._problem is None:
            self._see_head(piece)
        if self._left is not None:
            self._see_tensors(piece, offset)

    def tensors(self) -> Mapping[str, Held]:
        """Return what the file holds, by key. `ValueError` if what passed was no such file."""
        if self._left is None:
            raise self._problem or ValueError(f"{self._size} bytes are too few for its header")
        return self._found

    def _begin(self) -> None:
        self._head = bytearray()
        self._problem: ValueError | None = None  # of the header
        self._left: Iterator[tuple[str, Slice]] | None = None  # of the tensors, once the header is known
        self._current: tuple[str, Slice] | None = None
        self._digest = xxhash.xxh3_128()
        self._found: dict[str, Held] = {}

    def _see_head(self, piece: memoryview) -> None:
        """Collect the header, and parse it once it is complete."""
        taken = 0
        while missing := self._missing():
            part = piece[taken : taken + missing]
            if not part:
                return
            self._head += part
            taken += len(part)
        try:
            slices = parse_table(self._head, size=self._size)
        except ValueError as error:
            self._problem = error
            return
        self._left = iter(sorted(slices.items(), key=lambda item: (item[1].start, item[1].end)))
        self._current = next(self._left, None)

    def _missing(self) -> int:
        """How many bytes of the header are still to come; 0 of one that no reader takes."""
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
            self._found[key] = Held(place, digest)
            self._current = next(self._left, None)
