"""The record of a stored tensor: its facts, and the pieces in which its bytes lie. Imports no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import xxhash

from resumable.state.tensors.boxes import Box


class Piece(NamedTuple):
    """A part of a tensor in one file.

    `digest` is the XXH3-128 (hex) of its bytes in row-major order. `box` is None for the whole tensor. `blob` is the
    name of the file and `begin` its first byte there; both are None if only the header of a file shows the location.
    """

    digest: str
    box: Box | None = None
    blob: str | None = None
    begin: int | None = None


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of an object. Without `strides` it is row-major; with `alias` it is another name of that tensor.

    `pieces` are one whole tensor, or boxes that form a grid; those of an alias are of the tensor that it refers to.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    alias: str | None
    pieces: tuple[Piece, ...]

    @property
    def elements(self) -> int:
        """Return how many of its elements are stored: 0 for an alias."""
        return math.prod(self.shape) if self.alias is None else 0

    @property
    def boxes(self) -> tuple[Box, ...] | None:
        """Return the boxes in which its digest was computed; None for a whole tensor."""
        boxes = tuple(piece.box for piece in self.pieces if piece.box is not None)
        return boxes or None

    @functools.cached_property
    def digest(self) -> str:
        """Return the digest of a whole tensor, or the `joined_digest` of its pieces."""
        boxes = self.boxes
        return self.pieces[0].digest if boxes is None else joined_digest([each.digest for each in self.pieces], boxes)


def joined_digest(digests: Sequence[str], boxes: Sequence[Box]) -> str:
    """Return the XXH3-128 (hex) of the digests of boxes, and of where these are: other boxes give another digest."""
    return xxhash.xxh3_128_hexdigest(repr([*zip(boxes, digests, strict=True)]).encode())
