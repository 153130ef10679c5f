"""The facts of a tensor (dtype, shape, memory format) and its bytes. Independent of files and objects."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import xxhash
from torch import Tensor

from resumable.state.tensors.boxes import Box
from resumable.state.tensors.dtypes import TAGS
from resumable.state.tensors.records import joined_digest

DTYPES: Mapping[str, torch.dtype] = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and not str(value).startswith(("torch.q", "torch.quint"))
}

_OF_TAG = {tag: dtype for dtype, (tag, trailing) in TAGS.items() if not trailing}
_STORABLE = frozenset(DTYPES.values())
_SAME_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class Recorded(Protocol):
    """The facts in any record of a stored tensor; `strides` is None for row-major order."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def strides(self) -> Sequence[int] | None: ...


class DigestedRecord(Recorded, Protocol):
    """A record of a stored tensor that also has its digest, computed in `boxes` if these are not None."""

    @property
    def digest(self) -> str: ...
    @property
    def boxes(self) -> Sequence[Box] | None: ...


DigestedRecords = Mapping[str, DigestedRecord]


@dataclass(frozen=True)
class UndigestedRecord:
    """The record of a tensor in a file of another program, which has no digest to verify it."""

    dtype: str
    shape: tuple[int, ...]
    strides: None = None
    digest: None = None

    @classmethod
    def tagged(cls, tag: str, shape: tuple[int, ...]) -> UndigestedRecord:
        """Return the record for a dtype tag of the format."""
        return cls(_OF_TAG[tag], shape)


@dataclass(frozen=True)
class TensorFacts:
    """A tensor without its values; `strides` is None for row-major order."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}")
        if any(type(size) is not int or size < 0 for size in self.shape):
            raise ValueError(f"impossible shape {self.shape}")
        if self.strides is not None and not is_dense(self.shape, self.strides):
            raise ValueError(f"strides {self.strides} are not a dense layout of shape {self.shape}")

    @classmethod
    def recorded(cls, record: Recorded) -> TensorFacts:
        """Return the facts of a record; raise `ValueError` if they are impossible."""
        shape, strides = tuple(record.shape), None if record.strides is None else tuple(record.strides)
        # A value that equals an int (True, 1.0) must not hit the cache entry of that int.
        make = _recorded if {*map(type, shape), *map(type, strides or ())} <= {int} else cls
        return make(record.dtype, shape, strides)

    @functools.cached_property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @functools.cached_property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.torch_dtype.itemsize

    @functools.cached_property
    def stored_as(self) -> tuple[str, tuple[int, ...]]:
        """The tag and shape in a safetensors file; a dtype without a tag gets a trailing dimension."""
        tag, trailing = TAGS.get(self.dtype, ("U8", (self.torch_dtype.itemsize,)))
        return tag, self.shape + trailing


_recorded = functools.lru_cache(maxsize=100_000)(TensorFacts)  # a restore looks up each several times


def facts_of(tensor: Tensor) -> TensorFacts:
    """Return the facts of a live tensor; with gaps or overlaps, those of the copy that `clone()` would make."""
    return _facts(tensor.dtype, tuple(tensor.shape), tensor.stride())


@functools.lru_cache(maxsize=100_000)  # every save looks up the same few hundred
def _facts(dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]) -> TensorFacts:
    strides: tuple[int, ...] | None = stride
    if 0 in shape or strides == row_major(shape):
        strides = None
    elif not is_dense(shape, stride):
        strides = torch.empty_like(torch.empty_strided(shape, stride, dtype=dtype, device="meta")).stride()
        strides = None if strides == row_major(shape) else strides
    return _recorded(str(dtype).removeprefix("torch."), shape, strides)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor of this shape."""
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * max(shape[dim + 1], 1)
    return tuple(strides)


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether these strides give each element its own location and leave no gaps."""
    if len(shape) != len(strides) or any(type(stride) is not int or not 0 <= stride < 2**48 for stride in strides):
        return False
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size != 1):
        if size == 0:
            return True
        if stride != expected:
            return False
        expected *= size
    return True


def raw(tensor: Tensor) -> Tensor:
    """Return a view as integers of the same width: copying them changes no bit, and works for every dtype."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain if plain.dtype is torch.complex128 else plain.view(_SAME_WIDTH[plain.element_size()])


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes in row-major order on the host: a view of its memory if possible, otherwise a copy."""
    flat = raw(tensor).cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def byte_pieces(tensor: Tensor, nbytes: int) -> Iterator[memoryview]:
    """Yield the same bytes in pieces of at most `nbytes`; those of a device are fetched piece by piece."""
    flat = raw(tensor).contiguous().reshape(-1)
    flat = flat.view(torch.uint8) if flat.numel() else flat
    data = bytes_of(flat) if flat.device.type == "cpu" else None
    for start in range(0, flat.numel(), nbytes):
        yield data[start : start + nbytes] if data is not None else bytes_of(flat[start : start + nbytes])


def tensor_digest(tensor: Tensor) -> str:
    """Return the XXH3-128 (hex) of a tensor's bytes in row-major order."""
    return xxhash.xxh3_128_hexdigest(bytes_of(tensor))


def digest_in_boxes(tensor: Tensor, boxes: Sequence[Box] | None) -> str:
    """Return the digest that a record of this tensor has if its pieces are these boxes; None is the whole tensor."""
    if boxes is None:
        return tensor_digest(tensor)
    return joined_digest([tensor_digest(tensor.detach()[box.slices]) for box in boxes], boxes)


def empty(facts: TensorFacts, device: torch.device | str = "cpu") -> Tensor:
    """Allocate an uninitialized tensor with these facts."""
    strides = facts.strides if facts.strides is not None else row_major(facts.shape)
    return torch.empty_strided(facts.shape, strides, dtype=facts.torch_dtype, device=device)


def copy_bits(target: Tensor, source: Tensor) -> None:
    """Copy every bit of `source` into the memory of `target`, which has the same dtype and shape."""
    with torch.no_grad():
        if target.is_conj() or target.is_neg():
            target.copy_(source)
        else:
            raw(target).copy_(raw(source))


def copy_of(tensor: Tensor, device: torch.device | str | None = None) -> Tensor:
    """Return a copy with the same bits and memory format, in memory that torch aligned."""
    copy = empty(facts_of(tensor), device if device is not None else tensor.device)
    copy_bits(copy, tensor)
    return copy


def same_place(tensor: Tensor) -> tuple[object, ...] | None:
    """Return a value that is equal for tensors with the same memory and layout; None for tensors without memory."""
    if tensor.numel() == 0:
        return None
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def refusal(tensor: Tensor) -> tuple[str, str] | None:
    """Return why a tensor cannot be stored, and the hint; None if it can."""
    plain = tensor.layout is torch.strided and tensor.dtype in _STORABLE and tensor.grad_fn is None
    if plain and not (tensor.is_nested or tensor.is_meta):
        return None  # nearly all tensors, so this check comes first
    if tensor.is_nested:
        return "a nested tensor cannot be stored", "keep a padded tensor or a list of tensors"
    if tensor.is_quantized:
        return "a quantized tensor cannot be stored", "keep .int_repr() with its scale and zero point"
    if tensor.layout is not torch.strided:
        return f"a {str(tensor.layout).removeprefix('torch.')} tensor cannot be stored", "keep .to_dense()"
    if tensor.is_meta:
        return "a tensor on the meta device has no values", "materialize it before the training starts"
    if tensor.grad_fn is not None:
        return "a tensor that is part of an autograd graph cannot be stored", "keep .detach() or .item()"
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        return f"a tensor of {tensor.dtype} cannot be stored", "convert it first"
    return None
