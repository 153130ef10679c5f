"""Find each recorded tensor in the files of its object. Imports no torch, and reads no bytes of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from resumable.state.tensors.safetensors_layout import Slice

if TYPE_CHECKING:
    from resumable.state.tensors.facts import Recorded


def alias_of(record: Recorded) -> str | None:
    """Return the key of the tensor that this record is an alias of, or None."""
    alias: str | None = getattr(record, "alias", None)
    return alias


def locate(headers: Iterable[Mapping[str, Slice]], records: Mapping[str, Recorded]) -> dict[str, tuple[int, Slice]]:
    """Return the file and the location in it of each recorded tensor.

    Raises:
        ValueError: A tensor is in none of the files, or in two.
    """
    found: dict[str, tuple[int, Slice]] = {}
    for number, header in enumerate(headers):
        for key, place in header.items():
            if key in found and key in records:
                raise ValueError(f"tensor {key!r}: in two of the object's files")
            found[key] = number, place
    own = [key for key, record in records.items() if alias_of(record) is None]
    for key in own:
        if key not in found:
            raise ValueError(f"tensor {key!r}: not in the file")
    return {key: found[key] for key in own}
