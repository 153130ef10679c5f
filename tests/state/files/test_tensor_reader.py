"""Reading straight into tensors: what is filled in place, what is not, and that no other byte gets through."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import xxhash
from torch import Tensor, nn

from resumable.state.files.header_locations import located
from resumable.state.files.tensor_reader import read_tensors
from resumable.state.tensors.facts import TensorFacts
from resumable.state.tensors.records import TensorRecord
from tests.state.roundtrip import Saved, save_tree

MIB = 2**20


class Blob:
    """One file in memory that counts how it is read; `shows_twice` as a storage does that had to ask again."""

    readers = 2
    range_bytes = 1000

    def __init__(self, data: bytes, *, name: str = "x.safetensors", shows_twice: bool = False) -> None:
        self.data, self.name, self.size = data, name, len(data)
        self.digest = xxhash.xxh3_128_hexdigest(data)
        self.shows_twice = shows_twice
        self.reads: list[tuple[int, int]] = []
        self.verified = 0

    def read(self, buffer: memoryview, offset: int, seen: Callable[[memoryview, int], None] | None = None) -> None:
        self.reads.append((offset, len(buffer)))
        assert offset + len(buffer) <= self.size
        if seen and self.shows_twice:  # a read that brought other bytes, and failed
            buffer[:700] = bytes(len(buffer[:700]))
            seen(buffer[:700], offset)
        for start in range(0, len(buffer), 777):
            stop = min(start + 777, len(buffer))
            buffer[start:stop] = self.data[offset + start : offset + stop]
            if seen:
                seen(buffer[start:stop], offset + start)

    @property
    def where(self) -> str:
        return self.name

    def drop_cache(self) -> None:
        pass

    def verify(self) -> None:
        self.verified += 1
        if xxhash.xxh3_128_hexdigest(self.data) != self.digest:
            raise ValueError(f"{self.name}: digest differs")


def example() -> dict[str, Tensor]:
    torch.manual_seed(3)
    shared = torch.rand(7)
    return {
        "large": torch.rand(40, 50),
        "small": torch.rand(3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "channels": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "flags": torch.rand(11) > 0.5,
        "half": torch.rand(301).to(torch.bfloat16),
        "first": shared,
        "again": shared,
        "view": torch.rand(100)[10:20],
    }


def saved(tensors: dict[str, Tensor] | None = None) -> Saved:
    return save_tree(example() if tensors is None else tensors)


def read(of: Saved, *blobs: Blob, into: dict[str, Tensor] | None = None, keys: Any = None) -> dict[str, Tensor]:
    blobs = blobs or (Blob(bytes(of.image)),)
    records = located(blobs, of.records)
    sources = {blob.name: blob for blob in blobs}
    return read_tensors(sources, records, into=into or {}, keys=records if keys is None else keys)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert found[key].stride() == tensor.stride() or tensor.numel() == 0, key
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("shows_twice", [False, True])
def test_what_is_alike_is_filled_where_it_is_and_the_rest_is_new(shows_twice: bool) -> None:
    of = saved()
    into = {key: torch.zeros_like(value) for key, value in example().items() if key != "again"}
    into["small"] = nn.Parameter(torch.zeros(3))
    into["half"] = torch.zeros(301)  # another dtype
    into["view"] = torch.zeros(100)[10:20]  # of a larger memory
    found = read(of, Blob(bytes(of.image), shows_twice=shows_twice), into=into)
    assert_equal({key: tensor.detach() for key, tensor in found.items()}, example())
    same = {key for key in into if found[key] is into[key]}
    assert same == {"large", "small", "scalar", "empty", "channels", "flags", "first"}
    assert found["again"] is found["first"]
    assert not into["view"].any()


def test_tensors_that_share_memory_are_never_filled_in_place() -> None:
    memory = torch.zeros(6)
    into = {"a": memory, "b": memory.view(2, 3)}
    found = read(saved({"a": torch.ones(6), "b": torch.rand(2, 3)}), into=into)
    assert not memory.any()
    assert found["a"] is not into["a"]


def test_only_the_keys_asked_for_are_read() -> None:
    of, blob = saved(), Blob(bytes(saved().image))
    into = {key: torch.zeros_like(value) for key, value in example().items()}
    found = read(of, blob, into=into, keys={"large"})
    assert torch.equal(found["large"], example()["large"])
    assert all(found[key] is into[key] and not into[key].any() for key in into if key not in ("large", "again"))
    assert [size for _, size in blob.reads if size != blob.size][-1] == 8000


def test_small_neighbours_come_in_one_read_and_large_tensors_straight() -> None:
    tensors = {f"t{number}": torch.rand(50) for number in range(20)} | {"large": torch.rand(5000)}
    of = saved(tensors)
    blob = Blob(bytes(of.image))
    assert_equal(read(of, blob, into={"large": torch.zeros(5000)}), tensors)
    assert sorted(size for _, size in blob.reads[1:]) == [1000] * 4 + [20000]
    assert not blob.verified


def test_the_small_tensors_of_an_optimizer_come_in_one_read_though_each_stands_beside_a_large_one() -> None:
    tensors = {f"{number}.{name}": value for number in range(9) for name, value in moments().items()}
    blob = Blob(bytes(saved(tensors).image))
    assert_equal(
        read(saved(tensors), blob, into={key: torch.zeros_like(value) for key, value in tensors.items()}), tensors
    )
    assert sorted(size for _, size in blob.reads[1:]) == [9 * (4 + 64)] + [20032] * 9
    assert all(offset % 64 == 0 for offset, _ in blob.reads)


def moments() -> dict[str, Tensor]:
    torch.manual_seed(4)
    return {"step": torch.tensor(2.5), "exp_avg": torch.rand(5008), "bias": torch.rand(16)}


def test_a_file_in_which_the_tensors_lie_as_earlier_versions_put_them_is_read_straight_too() -> None:
    tensors = moments()
    of, table, data = saved(tensors), {"__metadata__": {"format": "pt"}}, b""
    for key, tensor in tensors.items():
        begin, data = len(data), data + tensor.numpy().tobytes()
        table[key] = {"dtype": "F32", "shape": [*tensor.shape], "data_offsets": [begin, len(data)]}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % 64)
    blob, into = Blob(struct.pack("<Q", len(header)) + header + data), {"exp_avg": torch.zeros(5008)}
    assert blob.data != of.image
    found = read(of, blob, into=into)
    assert_equal(found, tensors)
    assert found["exp_avg"] is into["exp_avg"]
    assert not blob.verified


@pytest.mark.parametrize("in_place", [False, True])
def test_every_flipped_byte_of_a_file_is_found(in_place: bool) -> None:
    of = saved({"a": torch.rand(5), "b": torch.rand(400), "c": torch.tensor([True, False])})
    good = bytes(of.image)
    for position in range(len(good)):
        blob = Blob(good)
        blob.readers = 1
        blob.data = good[:position] + bytes([good[position] ^ 0x40]) + good[position + 1 :]
        into = {"a": torch.zeros(5), "b": torch.zeros(400)} if in_place else {}
        with pytest.raises(ValueError, match=r"digest differs|x\.safetensors|not in the file|the file holds"):
            read(of, blob, into=into)


def test_a_file_with_another_writers_header_is_read_whole_and_proved_by_its_own_digest() -> None:
    of = saved({"a": torch.rand(5), "b": torch.rand(6)})
    (length,) = struct.unpack_from("<Q", of.image)
    header = json.dumps(json.loads(of.image[8 : 8 + length]), indent=1).encode()
    data = struct.pack("<Q", len(header)) + header + of.image[8 + length :]
    blob, into = Blob(bytes(data)), {"a": torch.zeros(5)}
    found = read(of, blob, into=into)
    assert_equal(found, {"a": of.tensors()["a"], "b": of.tensors()["b"]})
    assert found["a"] is into["a"]
    assert blob.verified == 1
    blob.data = bytes(data).replace(b'"pt"', b'"PT"')
    with pytest.raises(ValueError, match="digest differs"):
        read(of, blob)


def test_a_bool_that_is_neither_0_nor_1_is_refused_whatever_its_digest_says() -> None:
    of = saved({"a": torch.tensor([1, 3], dtype=torch.uint8)})
    of.image[:] = bytes(of.image).replace(b'"U8","shape"', b'"BOOL","shape"').replace(b"  ", b"", 1)
    of.records["a"] = replace(of.records["a"], dtype="bool")
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        read(of)


def test_a_tensor_lies_in_exactly_one_of_an_objects_files() -> None:
    one, other = saved({"a": torch.rand(5)}), saved({"b": torch.rand(6), "a": torch.rand(5)})
    both = Saved(None, bytearray(), one.records | other.records)
    with pytest.raises(ValueError, match="tensor 'a': in two of the object's files"):
        read(both, Blob(bytes(one.image)), Blob(bytes(other.image), name="y.safetensors"))
    with pytest.raises(ValueError, match="tensor 'b': not in the file"):
        read(both, Blob(bytes(one.image)))
    frozen = saved({"c": torch.rand(2, 2)})
    split = Saved(None, bytearray(), one.records | frozen.records)
    assert_equal(
        read(split, Blob(bytes(one.image)), Blob(bytes(frozen.image), name="y")), one.tensors() | frozen.tensors()
    )


def test_a_size_that_only_equals_a_number_is_refused_also_after_that_number_was_seen() -> None:
    assert TensorFacts.recorded(TensorRecord("uint8", (1, 1), (1, 1), None, ())).shape == (1, 1)
    for shape, strides in (([True, 1], [1, 1]), ([1.0, 1], [1, 1]), ([1, 1], [True, 1]), ([1, 1], [1.0, 1])):
        with pytest.raises(ValueError, match=r"impossible shape|not a dense layout"):
            TensorFacts.recorded(TensorRecord("uint8", shape, strides, None, ()))  # type: ignore[arg-type]


def test_a_header_that_fits_the_records_but_not_the_size_of_the_file_is_refused() -> None:
    of = saved({"a": torch.rand(5), "b": torch.rand(400)})
    with pytest.raises(ValueError, match="the file at"):
        read(of, Blob(bytes(of.image) + b"more"))
