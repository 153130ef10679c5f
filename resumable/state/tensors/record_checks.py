"""Compare tensors in files with their records: location, facts, values of bools, aliases. Independent of storages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from resumable.state.tensors.facts import Recorded, TensorFacts
from resumable.state.tensors.safetensors_layout import Slice
from resumable.state.tensors.tensor_locations import alias_of, locate


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


def refuse_other_bools(key: str, flat: Tensor, facts: TensorFacts) -> None:
    """Raise `ValueError` for a tensor of bools with a byte that is neither 0 nor 1."""
    if facts.torch_dtype is torch.bool and bool((flat > 1).any()):
        raise ValueError(f"tensor {key!r}: a bool that is neither 0 nor 1")
