"""Copies tensors into host buffers that are file images, and reads them back; knows no storage and no object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from resumable.state.image import Layout, Slice, parse_header
from resumable.state.tensors import Recorded, TensorFacts, empty, facts_of, fill, raw


@dataclass(frozen=True)
class Staged:
    """One blob in host memory: `buffer` is the whole file; it stays valid until its name is staged again."""

    buffer: memoryview
    facts: dict[str, TensorFacts]
    slices: dict[str, Slice]
    size: int


class Stager:
    """Keeps one host buffer per blob name and reuses it, since fresh pages cost several times a reused one."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def stage(self, blob_name: str, tensors: Mapping[str, Tensor]) -> Staged:
        """Copy `tensors` into the image of blob `blob_name`; blocks until the copies are done (also off a device).

        Overwrites the image staged before under this name: that one must have been written by now.
        """
        facts = {key: facts_of(tensor) for key, tensor in tensors.items()}
        # Widest first also by torch's own item size: a complex128 among float64 must begin at a multiple of 16.
        widest_first = sorted(facts.items(), key=lambda item: -item[1].torch_dtype.itemsize)
        layout = Layout((key, *fact.stored_as, fact.nbytes) for key, fact in widest_first)
        buffer = self._buffer(blob_name, layout.size)
        buffer[: len(layout.header)] = torch.frombuffer(bytearray(layout.header), dtype=torch.uint8)
        for key, tensor in tensors.items():
            place = layout.slices[key]
            if place.start != place.end:
                _typed(buffer[place.start : place.end], facts[key]).copy_(raw(tensor))
        return Staged(buffer.numpy().data, facts, layout.slices, layout.size)

    def release(self) -> None:
        """Give the buffers back to the operating system."""
        self._buffers.clear()

    def _buffer(self, blob_name: str, size: int) -> Tensor:
        kept = self._buffers.get(blob_name)
        if kept is None or not size <= kept.numel() <= 2 * size:
            self._buffers.pop(blob_name, None)
            kept = self._buffers[blob_name] = torch.empty(size, dtype=torch.uint8)
        return kept[:size]


def digests(staged: Staged) -> dict[str, str]:
    """XXH3-128 (hex) of each tensor's bytes, equal to `tensor_digest` of the tensor at the instant of staging."""
    return {
        key: xxhash.xxh3_128_hexdigest(staged.buffer[place.start : place.end]) for key, place in staged.slices.items()
    }


def unstage(image: bytearray | memoryview, records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    """The tensors of a file image: views of its memory where they lie row-major, otherwise copies in their own format.

    Records that say they are an `alias` of another key have no bytes of their own: their key gets that tensor.
    Raises `ValueError` where the image is malformed or does not hold what `records` says.
    """
    try:
        return _unstaged(image, records)
    except (RuntimeError, OverflowError) as error:  # torch's word for an impossible size
        raise ValueError(str(error)) from error


def _unstaged(image: bytearray | memoryview, records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    slices = parse_header(image)
    aliases = {key: getattr(record, "alias", None) for key, record in records.items()}
    tensors = {
        key: _read(image, key, slices=slices, facts=TensorFacts.recorded(record))
        for key, record in records.items()
        if aliases[key] is None
    }
    for key, stored in aliases.items():
        if stored is not None:
            if stored not in tensors:
                raise ValueError(f"tensor {key!r}: an alias of {stored!r}, which is not in the file")
            tensors[key] = tensors[stored]
    return tensors


def _read(image: bytearray | memoryview, key: str, *, slices: Mapping[str, Slice], facts: TensorFacts) -> Tensor:
    place = slices.get(key)
    if place is None:
        raise ValueError(f"tensor {key!r}: not in the file")
    if (place.dtype_tag, place.shape) != facts.stored_as:
        raise ValueError(
            f"tensor {key!r}: the file holds {place.dtype_tag}{list(place.shape)}, expected {facts.dtype}"
            f"{list(facts.shape)}"
        )
    if place.start == place.end:
        return empty(facts)
    flat = torch.frombuffer(image, dtype=torch.uint8, count=place.end - place.start, offset=place.start)
    if facts.torch_dtype is torch.bool and bool((flat > 1).any()):
        raise ValueError(f"tensor {key!r}: a bool that is neither 0 nor 1")
    row_major = flat.view(facts.torch_dtype).view(facts.shape)
    if facts.strides is None:
        return row_major
    tensor = empty(facts)
    fill(tensor, row_major)
    return tensor


def _typed(flat: Tensor, facts: TensorFacts) -> Tensor:
    return raw(flat.view(facts.torch_dtype)).view(facts.shape)
