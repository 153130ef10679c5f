"""Boxes of a tensor: which of them form a grid, what they share, and how they are cut for reading."""

from __future__ import annotations

import itertools

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.state.tensors.boxes import Box, blocks, extent, intersection, refuse_unless_grid, whole


@st.composite
def grids(draw: st.DrawFn) -> tuple[list[int], list[Box]]:
    shape = draw(st.lists(st.integers(1, 6), max_size=4))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    intervals = [[(start, end - start) for start, end in itertools.pairwise(bounds)] for bounds in cuts]
    cells = [Box(tuple(o for o, _ in cell), tuple(s for _, s in cell)) for cell in itertools.product(*intervals)]
    return shape, draw(st.permutations(cells))


@given(grids())
def test_a_grid_is_taken_in_any_order_and_covers_each_element_once(grid: tuple[list[int], list[Box]]) -> None:
    shape, boxes = grid
    refuse_unless_grid(shape, boxes)
    count = numpy.zeros(shape, dtype=int)
    for box in boxes:
        count[box.slices] += 1
    assert (count == 1).all()


@given(grids(), st.data())
def test_a_grid_with_one_box_less_twice_or_moved_is_none(
    grid: tuple[list[int], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = grid
    changed = data.draw(st.sampled_from(boxes))
    others = [box for box in boxes if box is not changed]
    with pytest.raises(ValueError, match=r"grid|the pieces end at|a piece begins at"):
        refuse_unless_grid(shape, others)
    with pytest.raises(ValueError, match="grid"):
        refuse_unless_grid(shape, [*boxes, changed])
    if shape:
        moved = Box((changed.offsets[0] + 1, *changed.offsets[1:]), changed.shape)
        with pytest.raises(ValueError, match=r"grid|the pieces end at|a piece begins at"):
            refuse_unless_grid(shape, [*others, moved])


REFUSED = {
    "ragged shards of a flat buffer": ([4, 4], [Box((0, 0), (2, 4)), Box((2, 0), (1, 4)), Box((3, 0), (1, 2))]),
    "rows here and columns there": (
        [4, 4],
        [Box((0, 0), (4, 2)), Box((0, 2), (2, 2)), Box((2, 2), (2, 2))],
    ),
    "a pinwheel that covers all": (
        [3, 3],
        [
            Box((0, 0), (1, 2)),
            Box((0, 2), (2, 1)),
            Box((2, 1), (1, 2)),
            Box((1, 0), (2, 1)),
            Box((1, 1), (1, 1)),
        ],
    ),
    "an overlap": ([4], [Box((0,), (3,)), Box((2,), (2,))]),
    "beyond the shape": ([4], [Box((0,), (5,))]),
    "nothing of a tensor without elements": ([0, 4], [Box((0, 0), (0, 4))]),
    "a box without elements": ([4], [Box((0,), (4,)), Box((4,), (0,))]),
    "other dimensions": ([4], [Box((0, 0), (4, 1))]),
    "lengths that differ": ([4], [Box((0,), (4, 1))]),
    "numbers beyond all memory": ([2**62, 2**62], [Box((0, 0), (2**62, 2**61)), Box((0, 2**60), (2**62, 2**62))]),
}


@pytest.mark.parametrize(("shape", "boxes"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_grid_is_refused(shape: list[int], boxes: list[Box]) -> None:
    with pytest.raises(ValueError, match=r"grid|the pieces end at|a piece begins at|offsets and"):
        refuse_unless_grid(shape, boxes)


def test_sixty_thousand_boxes_that_are_no_grid_are_not_compared_in_pairs() -> None:
    boxes = [Box((number, number), (1, 1)) for number in range(65_536)]
    with pytest.raises(ValueError, match="65536 pieces, 65536 of them distinct, expected a grid of 4294967296"):
        refuse_unless_grid([65_536, 65_536], boxes)


@given(grids(), st.data())
def test_an_intersection_is_what_both_have(grid: tuple[list[int], list[Box]], data: st.DataObject) -> None:
    shape, _ = grid
    one, other = (data.draw(boxes_in(shape)) for _ in range(2))
    count = numpy.zeros(shape, dtype=int)
    count[one.slices] += 1
    count[other.slices] += 1
    common = intersection(one, other)
    assert (common is None) == (not (count == 2).any())
    if common is not None:
        count[common.slices] -= 2
        assert not (count == 2).any()
        assert (count >= 0).all()


def boxes_in(shape: list[int]) -> st.SearchStrategy[Box]:
    intervals = [
        st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(
            lambda pair, size=size: (pair[0], min(pair[1], size - pair[0]))  # type: ignore[misc]
        )
        for size in shape
    ]
    return st.tuples(*intervals).map(lambda cells: Box(tuple(o for o, _ in cells), tuple(s for _, s in cells)))


@given(st.lists(st.integers(1, 6), max_size=4), st.integers(1, 50), st.data())
def test_blocks_are_the_box_in_order_and_none_spans_more(shape: list[int], most: int, data: st.DataObject) -> None:
    box = data.draw(boxes_in(shape))
    numbers = numpy.arange(int(numpy.prod(shape, dtype=int))).reshape(shape)
    found = list(blocks(box, shape, most))
    covered = numpy.concatenate([numbers[block.slices].ravel() for block in found])
    assert sorted(covered) == sorted(numbers[box.slices].ravel())
    spans = [extent(block, shape) for block in found]
    assert spans == sorted(spans)
    for block, (first, end) in zip(found, spans, strict=True):
        assert (first, end) == (numbers[block.slices].min(), numbers[block.slices].max() + 1)
        assert end - first <= max(most, 1)


def test_the_only_box_of_a_number_is_whole() -> None:
    refuse_unless_grid([], [whole([])])
    assert list(blocks(whole([]), [], 1)) == [Box((), ())]
    with pytest.raises(ValueError, match="expected a grid of 1"):
        refuse_unless_grid([], [])
