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


def refuse_outside(box: Box, shape: Sequence[int]) -> None:
    """Raise `ValueError` for a box that does not lie within a tensor of this shape."""
    fits = len(box.offsets) == len(box.shape) == len(shape) and all(
        0 <= start <= start + size <= whole_size
        for start, size, whole_size in zip(box.offsets, box.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"offsets {list(box.offsets)} and shape {list(box.shape)}: not within shape {list(shape)}")


def refuse_unless_grid(shape: Sequence[int], boxes: Collection[Box]) -> None:
    """Raise `ValueError` unless the boxes form a grid that covers a tensor of this shape, each with an element.

    In a grid each dimension is cut into intervals, and each combination of intervals is exactly one box. Takes time
    proportional to the number of boxes, whatever they are.
    """
    for box in boxes:
        if len(box.offsets) != len(shape) or len(box.shape) != len(shape):
            raise ValueError(
                f"a piece has {len(box.offsets)} offsets and {len(box.shape)} sizes, expected {len(shape)}"
            )
    cells = 1
    for dimension, size in enumerate(shape):
        cells *= _count_intervals(dimension, size, boxes)
    distinct = len(set(boxes))
    if distinct != len(boxes) or distinct != cells:
        raise ValueError(f"{len(boxes)} pieces, {distinct} of them distinct, expected a grid of {cells}")


def _count_intervals(dimension: int, size: int, boxes: Collection[Box]) -> int:
    end = 0
    intervals = sorted({(box.offsets[dimension], box.shape[dimension]) for box in boxes})
    for start, length in intervals:
        if start != end or length == 0:
            raise ValueError(
                f"dimension {dimension}: a piece begins at {start} with size {length}, expected one at {end}"
            )
        end = start + length
    if end != size:
        raise ValueError(f"dimension {dimension}: the pieces end at {end}, expected {size}")
    return len(intervals)


def extent(box: Box, shape: Sequence[int]) -> tuple[int, int]:
    """Return the range of elements, first and end, that a box spans in a row-major tensor of this shape."""
    first, last, stride = 0, 0, 1
    for offset, size, whole_size in zip(reversed(box.offsets), reversed(box.shape), reversed(shape), strict=True):
        first += offset * stride
        last += (offset + size - 1) * stride
        stride *= whole_size
    return first, last + 1


def blocks(box: Box, shape: Sequence[int], most: int) -> Iterator[Box]:
    """Cut a box with elements into boxes that each span at most `most` elements of a row-major tensor of this shape.

    They come in the order of their first elements.
    """
    first, end = extent(box, shape)
    dimension = next((number for number, size in enumerate(box.shape) if size > 1), None)
    if end - first <= most or dimension is None:
        yield box
        return
    stride = math.prod(shape[dimension + 1 :])
    spanned = end - first - (box.shape[dimension] - 1) * stride  # by the elements of one index
    step = max((most - spanned) // stride + 1, 1)
    for start in range(0, box.shape[dimension], step):
        count = min(step, box.shape[dimension] - start)
        yield from blocks(_cut(box, dimension, start, count), shape, most)


def _cut(box: Box, dimension: int, start: int, count: int) -> Box:
    """Return the part of a box with `count` indices of one dimension, from its index `start` on."""
    offsets, shape = list(box.offsets), list(box.shape)
    offsets[dimension] += start
    shape[dimension] = count
    return Box(tuple(offsets), tuple(shape))
