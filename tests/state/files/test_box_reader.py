"""Any box of a tensor out of pieces in any files: equal to slicing, and no byte that is used goes unproved."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resumable.state.files.box_reader import FileRanges, read_box
from resumable.state.files.tensor_reader import read_tensor
from resumable.state.tensors.boxes import Box, intersection, whole
from resumable.state.tensors.facts import bytes_of, facts_of, tensor_digest
from resumable.state.tensors.records import Piece, TensorRecord

DTYPES = [torch.float32, torch.bfloat16, torch.bool, torch.complex128, torch.int64, torch.float8_e4m3fn]


@dataclass
class Memory:
    """One file in memory that notes which of its bytes are read."""

    name: str
    data: bytearray
    readers: int = 2
    range_bytes: int = 1000
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def where(self) -> str:
        return self.name

    def drop_cache(self) -> None:
        pass

    def read(self, buffer: memoryview, offset: int, seen: Callable[[memoryview, int], None] | None = None) -> None:
        assert offset + len(buffer) <= self.size
        self.reads.append((offset, offset + len(buffer)))
        buffer[:] = self.data[offset : offset + len(buffer)]
        if seen:
            seen(buffer, offset)


@dataclass
class Stored:
    """A tensor in pieces, and the files that hold them."""

    tensor: Tensor
    record: TensorRecord
    files: dict[str, Memory]
    ranges: dict[str, FileRanges]

    def read(self, box: Box) -> Tensor:
        return read_box(self.files, "key", self.record, box, self.ranges)


def stored(tensor: Tensor, boxes: list[Box], *, files: int, padding: int, range_bytes: int) -> Stored:
    """Put these boxes of a tensor into files in turn, each behind some other bytes."""
    data = {f"file{number}": bytearray(b"\x07" * (8 + padding)) for number in range(files)}
    pieces = []
    for box, name in zip(boxes, itertools.cycle(data), strict=False):
        value = tensor[box.slices]
        box_or_whole = None if box == whole(tensor.shape) else box
        pieces.append(Piece(tensor_digest(value), box_or_whole, name, len(data[name])))
        data[name] += bytes(bytes_of(value)) + b"\x07" * padding
    ranges = {
        name: FileRanges(range_bytes, [*map(xxhash.xxh3_128_hexdigest, cut(bytes(held), range_bytes))])
        for name, held in data.items()
    }
    record = TensorRecord(facts_of(tensor).dtype, tuple(tensor.shape), None, None, tuple(pieces))
    return Stored(tensor, record, {name: Memory(name, held) for name, held in data.items()}, ranges)


def cut(data: bytes, length: int) -> list[bytes]:
    return [data[start : start + length] for start in range(0, len(data), length)]


@st.composite
def parts(draw: st.DrawFn) -> tuple[Stored, Box]:
    """A tensor that is tiled at random over some files, and a box of it that another tiling might need."""
    shape = draw(st.lists(st.integers(1, 9), max_size=4))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    intervals = [[(start, end - start) for start, end in itertools.pairwise(bounds)] for bounds in cuts]
    boxes = [Box(tuple(o for o, _ in cell), tuple(s for _, s in cell)) for cell in itertools.product(*intervals)]
    dtype = draw(st.sampled_from(DTYPES))
    tensor = (torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 9).to(dtype)
    offsets = [draw(st.integers(0, size)) for size in shape]
    sizes = [draw(st.integers(0, size - offset)) for offset, size in zip(offsets, shape, strict=True)]
    made = stored(
        tensor,
        draw(st.permutations(boxes)),
        files=draw(st.integers(1, 5)),
        padding=draw(st.integers(0, 20)),
        range_bytes=draw(st.sampled_from([16, 33, 64, 250, 10_000])),
    )
    return made, Box(tuple(offsets), tuple(sizes))


@settings(max_examples=150)
@given(parts())
def test_a_box_of_a_random_tiling_is_that_slice_of_the_tensor(case: tuple[Stored, Box]) -> None:
    made, box = case
    wanted = made.tensor[box.slices]
    found = made.read(box)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.is_contiguous()
    assert bytes_of(found) == bytes_of(wanted)
    assert bytes_of(read_tensor(made.files, "key", made.record)) == bytes_of(made.tensor)


@settings(max_examples=150)
@given(parts(), st.data())
def test_a_flipped_byte_is_found_by_the_reads_that_use_it(case: tuple[Stored, Box], data: st.DataObject) -> None:
    made, box = case
    wanted = made.tensor[box.slices]
    file = made.files[data.draw(st.sampled_from(sorted(made.files)))]
    position = data.draw(st.integers(0, file.size - 1))
    file.data[position] ^= 1 << data.draw(st.integers(0, 7))
    if position in used(made, box, file.name):
        with pytest.raises(ValueError, match="digest differs"):
            made.read(box)
        return
    with contextlib.suppress(ValueError):  # a neighbor that had to be read may be damaged
        assert bytes_of(made.read(box)) == bytes_of(wanted)


def used(made: Stored, box: Box, file: str) -> set[int]:
    """The positions in a file of the bytes of a box."""
    width, positions = made.tensor.element_size(), set()
    for piece in made.record.pieces:
        held = piece.box or whole(made.tensor.shape)
        common = intersection(held, box)
        if piece.blob == file and common is not None:
            numbers = numpy.arange(held.elements).reshape(held.shape)[common.within(held).slices]
            positions |= {piece.begin + width * int(n) + b for n in numbers.ravel() for b in range(width)}
    return positions


def test_every_byte_of_a_box_counts() -> None:
    tensor = torch.arange(400.0).reshape(20, 20)
    made = stored(tensor, [whole(tensor.shape)], files=1, padding=0, range_bytes=100)
    box, [file] = Box((3, 7), (5, 6)), made.files.values()
    for row, column in itertools.product(range(3, 8), range(7, 13)):
        position = 8 + 4 * (20 * row + column)
        file.data[position] ^= 1
        with pytest.raises(ValueError, match=r"file0: range \d+: digest differs"):
            made.read(box)
        file.data[position] ^= 1
    assert torch.equal(made.read(box), tensor[box.slices])


def test_a_part_of_a_large_piece_costs_the_ranges_in_which_it_lies_and_each_once() -> None:
    tensor = torch.arange(10_000.0).reshape(10, 1000)
    made = stored(tensor, [whole(tensor.shape)], files=1, padding=0, range_bytes=400)
    [file] = made.files.values()
    assert torch.equal(made.read(Box((4, 0), (2, 1000))), tensor[4:6])
    assert sorted(file.reads) == [(start, start + 400) for start in range(16_000, 24_400, 400)]
    file.reads.clear()
    assert torch.equal(made.read(Box((0, 950), (10, 10))), tensor[:, 950:960])
    assert len(file.reads) == len(set(file.reads)) <= 20, "far fewer than the hundred of the whole piece"


def test_a_small_piece_is_proved_by_its_own_digest_and_nothing_else_is_read() -> None:
    tensor = torch.arange(64.0)
    made = stored(tensor, [Box((start,), (16,)) for start in range(0, 64, 16)], files=1, padding=0, range_bytes=64)
    [file] = made.files.values()
    assert torch.equal(made.read(Box((20,), (30,))), tensor[20:50])
    assert sorted(file.reads) == [(8 + 64 * number, 72 + 64 * number) for number in (1, 2, 3)]


def test_a_piece_that_is_needed_whole_is_read_straight_and_alone() -> None:
    tensor = torch.arange(200.0)
    made = stored(tensor, [Box((0,), (100,)), Box((100,), (100,))], files=1, padding=0, range_bytes=64)
    [file] = made.files.values()
    assert torch.equal(made.read(Box((100,), (100,))), tensor[100:])
    assert file.reads == [(408, 808)]


def test_without_digests_of_ranges_the_whole_piece_is_read_and_proved() -> None:
    tensor = torch.arange(100.0)
    made = stored(tensor, [whole(tensor.shape)], files=1, padding=0, range_bytes=16)
    made.ranges.clear()
    [file] = made.files.values()
    assert torch.equal(made.read(Box((5,), (3,))), tensor[5:8])
    assert file.reads == [(8, 408)]


@pytest.mark.parametrize("box", [Box((0,), (2,)), Box((1, 0), (2, 3)), Box((0, -1), (1, 1)), Box((0, 0), (1, -1))])
def test_a_box_that_is_not_within_the_tensor_is_refused(box: Box) -> None:
    made = stored(torch.rand(2, 3), [whole((2, 3))], files=1, padding=0, range_bytes=64)
    with pytest.raises(ValueError, match=r"not within shape \[2, 3\]"):
        made.read(box)


def test_a_piece_that_ends_behind_its_file_is_refused() -> None:
    made = stored(torch.rand(100), [whole((100,))], files=1, padding=0, range_bytes=64)
    made.files["file0"].data = made.files["file0"].data[:100]
    with pytest.raises(ValueError, match="range 1: digest differs"):
        made.read(Box((10,), (80,)))


def test_a_bool_that_is_none_is_refused_although_the_digests_fit() -> None:
    tensor = torch.zeros(100, dtype=torch.uint8)
    tensor[50] = 2
    made = stored(tensor, [whole((100,))], files=1, padding=0, range_bytes=16)
    made.record = TensorRecord("bool", (100,), None, None, made.record.pieces)
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        made.read(Box((48,), (8,)))
