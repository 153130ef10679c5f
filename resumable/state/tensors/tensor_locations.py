"""Finds each recorded tensor in the files of its object; knows neither torch nor the bytes of a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from resumable.state.tensors.safetensors_layout import Slice

if TYPE_CHECKING:
    from resumable.state.tensors.facts import Recorded


def alias_of(record: Recorded) -> str | None:
    """Return the key whose tensor this record's key gets; None where it has one of its own."""
    alias: str | None = getattr(record, "alias", None)
    return alias


def located(headers: Iterable[Mapping[str, Slice]], records: Mapping[str, Recorded]) -> dict[str, tuple[int, Slice]]:
    """Find where each recorded tensor lies: in which file, and where in it.

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
