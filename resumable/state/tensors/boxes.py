"""Boxes: rectangular parts of a tensor, which several files or ranks hold. Imports no torch, and reads no bytes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A part of a tensor: for each dimension the first index and the number of indices."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Return the index of this box in the whole tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.shape, strict=True))

    def within(self, other: Box) -> Box:
        """Return this box, which lies in `other`, relative to the first element of that."""
        return Box(tuple(mine - theirs for mine, theirs in zip(self.offsets, other.offsets, strict=True)), self.shape)


def whole(shape: Sequence[int]) -> Box:
    """Return the box of all of a tensor."""
    return Box((0,) * len(shape), tuple(shape))


def intersection(one: Box, other: Box) -> Box | None:
    """Return the box that lies in both; None if there is none."""
    offsets, shape = [], []
    for start, size, other_start, other_size in zip(*one, *other, strict=True):
        first, end = max(start, other_start), min(start + size, other_start + other_size)
        if first >= end:
            return None
        offsets.append(first)
        shape.append(end - first)
    return Box(tuple(offsets), tuple(shape))


def refuse_unless_grid(shape: Sequence[int], boxes: Collection[Box]) -> None:
    """Raise `ValueError` unless the boxes form a grid that covers a tensor of this shape.

    In a grid each dimension is cut into intervals, and each combination of intervals is exactly one box. A tensor
    without elements is one box. Takes time proportional to the number of boxes, whatever they are.
    """
    for box in boxes:
        if len(box.offsets) != len(shape) or len(box.shape) != len(shape):
            raise ValueError(
                f"a piece has {len(box.offsets)} offsets and {len(box.shape)} sizes, expected {len(shape)}"
            )
    cells = 1
    for dimension, size in enumerate(shape):
        cells *= _count_intervals(dimension, size, boxes)
    if len(set(boxes)) != len(boxes) or len(boxes) != cells:
        raise ValueError(f"{len(boxes)} pieces ({len(set(boxes))} of them distinct), expected {cells} that form a grid")


def _count_intervals(dimension: int, size: int, boxes: Collection[Box]) -> int:
    intervals = sorted({(box.offsets[dimension], box.shape[dimension]) for box in boxes})
    if size == 0 and intervals == [(0, 0)]:
        return 1
    end = 0
    for start, length in intervals:
        if start != end or length <= 0:
            raise ValueError(f"dimension {dimension}: a piece begins at {start} with {length}, expected one at {end}")
        end = start + length
    if end != size:
        raise ValueError(f"dimension {dimension}: the pieces end at {end}, expected {size}")
    return len(intervals)


def spans(box: Box, shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of elements, first and end, in which a box lies in a row-major tensor of this shape.

    Each range is as long as possible: a run of whole rows is one.
    """
    inner = len(shape)  # the dimensions from here on are contiguous together with the one before
    while inner > 0 and box.shape[inner - 1] == shape[inner - 1]:
        inner -= 1
    strides = [math.prod(shape[dimension + 1 :]) for dimension in range(len(shape))]
    cut = max(inner - 1, 0)
    length = math.prod(box.shape[cut:])
    for start in _starts(box, strides, cut):
        yield start, start + length


def _starts(box: Box, strides: Sequence[int], cut: int) -> Iterator[int]:
    base = sum(offset * stride for offset, stride in zip(box.offsets, strides, strict=True))
    counters = [0] * cut
    while True:
        yield base + sum(index * stride for index, stride in zip(counters, strides[:cut], strict=True))
        for dimension in reversed(range(cut)):
            counters[dimension] += 1
            if counters[dimension] < box.shape[dimension]:
                break
            counters[dimension] = 0
        else:
            return
