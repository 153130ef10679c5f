"""The tensors of file images: what a test sees in bytes that were staged, without the reader under test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from resumable.state.tensors.facts import Recorded, TensorFacts, copy_bits, empty
from resumable.state.tensors.record_checks import checked_locations, refuse_other_bools, with_aliases
from resumable.state.tensors.safetensors_layout import Slice, parse_header

ImageBytes = bytearray | memoryview


def view_tensors(images: Sequence[ImageBytes], records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    """Return the tensors of an object's file images: views if they are row-major, otherwise copies.

    A record with an `alias` has no bytes of its own: its key gets the tensor of that alias.

    Raises:
        ValueError: An image is malformed, or a recorded tensor is in none of them, in two, or differs from its record.
    """
    try:
        return _unstaged(images, records)
    except (RuntimeError, OverflowError) as error:  # torch raises these for an impossible size
        raise ValueError(str(error)) from error


def _unstaged(images: Sequence[ImageBytes], records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    places = checked_locations([parse_header(image) for image in images], records)
    tensors = {key: _read(images[number], key, place, facts) for key, (number, place, facts) in places.items()}
    return with_aliases(tensors, records)


def _read(image: ImageBytes, key: str, place: Slice, facts: TensorFacts) -> Tensor:
    if place.start == place.end:
        return empty(facts)
    flat = torch.frombuffer(image, dtype=torch.uint8, count=place.end - place.start, offset=place.start)
    refuse_other_bools(key, flat, facts)
    row_major = flat.view(facts.torch_dtype).view(facts.shape)
    if facts.strides is None:
        return row_major
    tensor = empty(facts)
    copy_bits(tensor, row_major)
    return tensor
