"""Return the tensors of file images, as views of their memory or as copies. Independent of storages and objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from resumable.state.tensors.facts import Recorded, TensorFacts, copy_bits, empty
from resumable.state.tensors.safetensors_layout import Slice, parse_header
from resumable.state.tensors.tensor_locations import alias_of, locate

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


def checked_locations(
    headers: Iterable[Mapping[str, Slice]], records: Mapping[str, Recorded]
) -> dict[str, tuple[int, Slice, TensorFacts]]:
    """Return the file, location and facts of each recorded tensor.

    Raises:
        ValueError: A tensor is not in exactly one file, or differs from its record.
    """
    return {
        key: (number, place, _checked(key, place, TensorFacts.recorded(records[key])))
        for key, (number, place) in locate(headers, records).items()
    }


def _checked(key: str, place: Slice, facts: TensorFacts) -> TensorFacts:
    if (place.dtype_tag, place.shape) != facts.stored_as:
        raise ValueError(
            f"tensor {key!r}: the file holds {place.dtype_tag}{list(place.shape)}, expected {facts.dtype}"
            f"{list(facts.shape)}"
        )
    return facts


def with_aliases(tensors: dict[str, Tensor], records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    """Add the tensor of each alias under the alias's key, and return `tensors`."""
    for key, record in records.items():
        stored = alias_of(record)
        if stored is not None:
            if stored not in tensors:
                raise ValueError(f"tensor {key!r}: an alias of {stored!r}, which is not in the file")
            tensors[key] = tensors[stored]
    return tensors


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


def refuse_other_bools(key: str, flat: Tensor, facts: TensorFacts) -> None:
    """Raise `ValueError` for a tensor of bools with a byte that is neither 0 nor 1."""
    if facts.torch_dtype is torch.bool and bool((flat > 1).any()):
        raise ValueError(f"tensor {key!r}: a bool that is neither 0 nor 1")
