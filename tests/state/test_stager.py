"""Tensors of every dtype and layout through a file image and back, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resumable.state.stager import Stager, digests, unstage
from resumable.state.tensors import DTYPES, TensorFacts, bytes_of, facts_of, tensor_digest
from tests.state.roundtrip import save_tree


def random_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    flat = torch.randint(0, 2 if dtype is torch.bool else 256, (torch.Size(shape).numel() * dtype.itemsize,))
    return flat.to(torch.uint8).view(dtype).view(shape)


def assert_same(left: Tensor, right: Tensor) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert bytes(bytes_of(left)) == bytes(bytes_of(right))


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
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


def test_a_buffer_is_reused_while_the_size_fits() -> None:
    stager = Stager()
    first = stager.stage("model", {"a": torch.zeros(1000)})
    second = stager.stage("model", {"a": torch.ones(1000)})
    other = stager.stage("other", {"a": torch.ones(1000)})
    assert first.buffer.obj.ctypes.data == second.buffer.obj.ctypes.data
    assert other.buffer.obj.ctypes.data != second.buffer.obj.ctypes.data
    grown = stager.stage("model", {"a": torch.full((5000,), 2.0)})
    assert_same(unstage(grown.buffer, grown.facts)["a"], torch.full((5000,), 2.0))


def test_what_is_staged_no_longer_follows_the_live_tensor() -> None:
    live = torch.zeros(10)
    staged = Stager().stage("model", {"a": live})
    before = digests(staged)["a"]
    live += 1
    assert digests(staged)["a"] == before == tensor_digest(torch.zeros(10))


def test_row_major_tensors_are_views_of_the_image() -> None:
    staged = Stager().stage("model", {"a": torch.zeros(10)})
    image = bytearray(staged.buffer)
    unstage(image, staged.facts)["a"][0] = 1.0
    assert image != bytearray(staged.buffer)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"b": TensorFacts("float32", (4,))}, "not in the file"),
        ({"a": TensorFacts("float32", (5,))}, "expected float32"),
        ({"a": TensorFacts("int32", (4,))}, "expected int32"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(record: dict[str, TensorFacts], reason: str) -> None:
    staged = Stager().stage("model", {"a": torch.zeros(4)})
    with pytest.raises(ValueError, match=reason):
        unstage(bytearray(staged.buffer), record)


def test_a_bool_that_is_neither_is_refused() -> None:
    staged = Stager().stage("model", {"a": torch.tensor([2], dtype=torch.uint8)})
    image = bytearray(bytes(staged.buffer).replace(b'"U8"', b'"BOOL"').replace(b"  ", b"", 1))
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        unstage(image, {"a": TensorFacts("bool", (1,))})


@pytest.mark.parametrize("strides", [(1,), (0, 1), (3, 2), (-1, 1), (2**50, 1), (1, 1)])
def test_strides_that_overlap_or_leave_gaps_are_refused(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dense layout"):
        TensorFacts("float32", (2, 3), strides)
