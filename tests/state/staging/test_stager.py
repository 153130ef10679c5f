"""Tensors of every dtype and layout through a file image and back, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from resumable.state.staging.copies import COPY_PIECE_BYTES, SMALL_BYTES, Copies
from resumable.state.staging.file_images import FileImage
from resumable.state.staging.host_memory import HostTransfer
from resumable.state.staging.stager import Stager
from resumable.state.tensors.facts import DTYPES, TensorFacts, bytes_of, facts_of, tensor_digest
from tests.state.image_views import view_tensors
from tests.state.roundtrip import file_of, save_tree, stage


class Counting(HostTransfer):
    """Counts the tensors that are copied."""

    copied = 0

    def copy(self, batches: Sequence[Copies], *, threads: int) -> None:
        self.copied += sum(map(len, batches))
        super().copy(batches, threads=threads)


def random_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    flat = torch.randint(0, 2 if dtype is torch.bool else 256, (torch.Size(shape).numel() * dtype.itemsize,))
    return flat.to(torch.uint8).view(dtype).view(shape)


def assert_same(left: Tensor, right: Tensor) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert bytes(bytes_of(left)) == bytes(bytes_of(right))


@pytest.mark.filterwarnings("ignore:.*support is experimental:UserWarning")  # ComplexHalf; BComplex32 in torch 2.14
@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_comes_back_with_every_bit(name: str) -> None:
    dtype = DTYPES[name]
    # Odd neighbours in front, so that offsets are not aligned by luck.
    tensors = {"u8": random_bits(torch.uint8, (3,)), "f64": random_bits(torch.float64, (1,))}
    tensors |= {"m": random_bits(dtype, (3, 5)), "s": random_bits(dtype, ()), "e": random_bits(dtype, (0, 2))}
    tensors["t"] = random_bits(dtype, (4, 3)).t()
    back = save_tree(tensors).tensors()
    for key, tensor in tensors.items():
        assert_same(back[key], tensor)
        assert facts_of(back[key]) == facts_of(tensor)
    assert back["t"].stride() == (1, 3)


@pytest.mark.parametrize(
    ("tensor", "strides"),
    [
        (torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), (60, 1, 15, 3)),
        (torch.rand(2, 1, 4, 5).to(memory_format=torch.channels_last), (20, 1, 5, 1)),
        (torch.rand(2, 3, 2, 4, 5).to(memory_format=torch.channels_last_3d), (120, 1, 60, 15, 3)),
        (torch.rand(4, 6)[:, ::2], (3, 1)),
        (torch.rand(6, 4).t()[::2], (1, 2)),
        (torch.rand(1, 4).expand(3, 4), (4, 1)),
        (torch.rand(5)[2], ()),
        (torch.complex(torch.rand(3), torch.rand(3)).conj(), (1,)),
        (torch.rand(3, dtype=torch.complex64).conj().imag, (1,)),
    ],
)
def test_memory_formats_come_back_and_gaps_close_as_in_clone(tensor: Tensor, strides: tuple[int, ...]) -> None:
    (back,) = save_tree([tensor]).tensors().values()
    assert back.stride() == strides == tensor.clone().stride()
    assert_same(back, tensor)


def address(image: FileImage) -> int:
    (chunk,) = image.chunks
    return torch.frombuffer(chunk, dtype=torch.uint8).data_ptr()


def test_a_buffer_is_reused_while_the_size_fits() -> None:
    stager = Stager()
    first = stage({"a": torch.zeros(1000)}, stager)
    where, kept = address(first), stager.nbytes
    assert address(stage({"a": torch.ones(1000)}, stager)) == where
    assert address(stage({"a": torch.ones(1000), "b": torch.ones(1)}, stager)) == where  # room for a longer header
    assert stager.nbytes == kept
    grown = stage({"a": torch.full((5000,), 2.0)}, stager)
    assert_same(view_tensors([file_of(grown)], grown.facts)["a"], torch.full((5000,), 2.0))


def test_a_steady_state_allocates_nothing_and_plans_nothing_anew() -> None:
    stager, live = Stager(), {f"t{n}": torch.zeros(64, 64) for n in range(50)}
    plan = stager.plan("object", live)
    stage(live, stager)
    kept = stager.nbytes
    for number in range(3):
        for tensor in live.values():
            tensor.fill_(number)
        image = stage(live, stager)
        assert stager.plan("object", live) is plan
        assert stager.nbytes == kept
        assert image.digests["t49"] == tensor_digest(torch.full((64, 64), float(number)))


def test_host_memory_begins_with_a_page_and_is_left_out_of_forked_children() -> None:
    stager = Stager()
    where = address(stage({"a": torch.ones(10_000_000)}, stager))
    assert where % 4096 == 0
    child = os.fork()
    if child == 0:
        with open("/proc/self/maps") as maps:
            spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
        os._exit(any(start <= where < stop for start, stop in spans))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_that_was_made_ready_is_what_the_first_save_uses() -> None:
    stager, live = Stager(), {"a": torch.ones(3_000_000), "b": torch.ones(7)}
    stager.prepare({"object": live}, {})()
    kept = stager.nbytes
    assert kept >= 12_000_028
    image = stage(live, stager)
    assert stager.nbytes == kept
    assert_same(view_tensors([file_of(image)], image.facts)["a"], live["a"])


def test_what_is_staged_no_longer_follows_the_live_tensor() -> None:
    live = torch.zeros(10)
    staged = stage({"a": live})
    live += 1
    assert staged.digests["a"] == tensor_digest(torch.zeros(10))


@pytest.mark.parametrize("threads", [1, 2])
def test_many_tensors_of_all_sizes_are_copied_by_several_threads(threads: int) -> None:
    small, piece = SMALL_BYTES // 4, COPY_PIECE_BYTES // 4
    sizes = [0, 1, 3, 1000, small, small + 1, piece, piece + 1, 3 * piece + 5]
    live = {f"t{number}": torch.randn(size) for number, size in enumerate(sizes)}
    live["strided"] = torch.randn(30, 50)[::2, 1::3]
    image = stage(live, threads=threads)
    back = view_tensors([file_of(image)], image.facts)
    for key, tensor in live.items():
        assert_same(back[key], tensor)
        assert image.digests[key] == tensor_digest(tensor)


def test_of_what_is_likely_the_same_only_what_changed_is_copied() -> None:
    counting = Counting()
    stager, live = Stager(counting), {f"t{number}": torch.randn(100) for number in range(4)}
    first = stage(live, stager)
    assert dict(first.digests)
    assert counting.copied == 4
    same = stage(live, stager, likely_same=["object"])
    assert same.unchanged
    assert counting.copied == 4
    live["t2"].data[7] = 5.0  # no version counter tells of this
    other = stage(live, stager, likely_same=["object"])
    assert not other.unchanged
    assert counting.copied == 5
    assert other.digests == {key: tensor_digest(tensor) for key, tensor in live.items()}
    assert not stage(live, stager).unchanged  # copied whole where nobody said that it may be the same
    assert counting.copied == 9


def test_what_came_to_nothing_is_not_compared_with() -> None:
    counting = Counting()
    stager, live = Stager(counting), {"a": torch.randn(100)}
    stage(live, stager)
    stager.forget()
    assert not stage(live, stager, likely_same=["object"]).unchanged
    assert counting.copied == 2


@pytest.mark.parametrize("window", [4096, 8192, 2**20])
def test_a_streamed_image_is_the_same_file_through_a_window(window: int) -> None:
    live = {"a": torch.randn(5000), "b": torch.randn(30, 50)[::2], "c": torch.zeros(3, dtype=torch.bool)}
    live |= {"none": torch.zeros(0), "one": torch.tensor(3.5, dtype=torch.float64)}
    stager = Stager()
    streamed = stager.stream({"object": live}, {}, max_bytes=window)[0]["object"]
    staged = stage(live)
    for _ in range(2):  # a repeated write reads it again
        chunks = [(len(chunk), bytes(chunk)) for chunk in streamed.chunks]
        assert b"".join(data for _, data in chunks) == bytes(file_of(staged))
        assert {size for size, _ in chunks[:-1]} <= {window}
        assert streamed.digests == staged.digests
    assert streamed.size == staged.size
    assert stager.nbytes == min(window, -(-staged.size // 4096) * 4096)


def test_a_window_of_two_halves_yields_the_same_file() -> None:
    live = {f"t{number}": torch.randn(size) for number, size in enumerate([3_000_000, 7, 1_100_000])}
    stager = Stager()
    streamed = stager.stream({"object": live}, {}, max_bytes=2**22)[0]["object"]
    chunks = [(len(chunk), bytes(chunk)) for chunk in streamed.chunks]
    assert {size for size, _ in chunks[:-1]} == {2**21}
    assert b"".join(data for _, data in chunks) == bytes(file_of(stage(live)))
    assert streamed.digests == {key: tensor_digest(tensor) for key, tensor in live.items()}
    assert stager.nbytes == 2**22


def test_a_streamed_image_is_digested_as_it_is_read_and_never_from_the_live_tensors_again() -> None:
    live = {"a": torch.randn(200_000), "b": torch.randn(300, 50)[::2], "c": torch.zeros(3, dtype=torch.uint8)}
    image = Stager().stream({"object": live}, {}, max_bytes=8192)[0]["object"]
    with pytest.raises(RuntimeError, match="once it was read to the end"):
        _ = image.digests
    list(image.chunks)
    then = {key: tensor_digest(tensor) for key, tensor in live.items()}
    for tensor in live.values():
        tensor.add_(1)  # a digest of the live tensors would show it
    assert image.digests == then
    abandoned = iter(image.chunks)  # as by a write that fails
    next(abandoned)
    with pytest.raises(RuntimeError, match="once it was read to the end"):
        _ = image.digests
    list(image.chunks)
    assert image.digests == {key: tensor_digest(tensor) for key, tensor in live.items()} != then


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"b": TensorFacts("float32", (4,))}, "not in the file"),
        ({"a": TensorFacts("float32", (5,))}, "expected float32"),
        ({"a": TensorFacts("int32", (4,))}, "expected int32"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(record: dict[str, TensorFacts], reason: str) -> None:
    staged = stage({"a": torch.zeros(4)})
    with pytest.raises(ValueError, match=reason):
        view_tensors([file_of(staged)], record)


def test_a_bool_that_is_neither_is_refused() -> None:
    staged = stage({"a": torch.tensor([2], dtype=torch.uint8)})
    image = bytearray(bytes(file_of(staged)).replace(b'"U8"', b'"BOOL"').replace(b"  ", b"", 1))
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        view_tensors([image], {"a": TensorFacts("bool", (1,))})


@pytest.mark.parametrize("strides", [(1,), (0, 1), (3, 2), (-1, 1), (2**50, 1), (1, 1)])
def test_strides_that_overlap_or_leave_gaps_are_refused(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dense layout"):
        TensorFacts("float32", (2, 3), strides)
