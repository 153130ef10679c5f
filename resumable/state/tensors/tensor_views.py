"""The tensors of file images: views of their memory, or copies in their own format; knows no storage and no object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from resumable.state.tensors.facts import Recorded, TensorFacts, empty, fill
from resumable.state.tensors.safetensors_layout import Slice, parse_header
from resumable.state.tensors.tensor_locations import alias_of, located

Image = bytearray | memoryview


def unstage(images: Sequence[Image], records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    """The tensors of an object's file images: views of their memory where they lie row-major, otherwise copies.

    Records that say they are an `alias` of another key have no bytes of their own: their key gets that tensor.
    Raises `ValueError` where an image is malformed, or where a record's tensor lies in none of them, in two, or is
    another one than the record says.
    """
    try:
        return _unstaged(images, records)
    except (RuntimeError, OverflowError) as error:  # torch's word for an impossible size
        raise ValueError(str(error)) from error


def placed(
    headers: Iterable[Mapping[str, Slice]], records: Mapping[str, Recorded]
) -> dict[str, tuple[int, Slice, TensorFacts]]:
    """Where each recorded tensor lies: in which file, and where in it; `ValueError` unless it is in exactly one."""
    return {
        key: (number, place, _checked(key, place, TensorFacts.recorded(records[key])))
        for key, (number, place) in located(headers, records).items()
    }


def _checked(key: str, place: Slice, facts: TensorFacts) -> TensorFacts:
    if (place.dtype_tag, place.shape) != facts.stored_as:
        raise ValueError(
            f"tensor {key!r}: the file holds {place.dtype_tag}{list(place.shape)}, expected {facts.dtype}"
            f"{list(facts.shape)}"
        )
    return facts


def with_aliases(tensors: dict[str, Tensor], records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    """`tensors`, and each alias's key with the tensor that it is another name of."""
    for key, record in records.items():
        stored = alias_of(record)
        if stored is not None:
            if stored not in tensors:
                raise ValueError(f"tensor {key!r}: an alias of {stored!r}, which is not in the file")
            tensors[key] = tensors[stored]
    return tensors


def _unstaged(images: Sequence[Image], records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    places = placed([parse_header(image) for image in images], records)
    tensors = {key: _read(images[number], key, place, facts) for key, (number, place, facts) in places.items()}
    return with_aliases(tensors, records)


def _read(image: Image, key: str, place: Slice, facts: TensorFacts) -> Tensor:
    if place.start == place.end:
        return empty(facts)
    flat = torch.frombuffer(image, dtype=torch.uint8, count=place.end - place.start, offset=place.start)
    refuse_other_bools(key, flat, facts)
    row_major = flat.view(facts.torch_dtype).view(facts.shape)
    if facts.strides is None:
        return row_major
    tensor = empty(facts)
    fill(tensor, row_major)
    return tensor


def refuse_other_bools(key: str, flat: Tensor, facts: TensorFacts) -> None:
    """`ValueError` for a tensor of bools with a byte that is neither 0 nor 1."""
    if facts.torch_dtype is torch.bool and bool((flat > 1).any()):
        raise ValueError(f"tensor {key!r}: a bool that is neither 0 nor 1")
