"""Lists of numbers as arrays in documents: `$floats` of doubles, `$ints` of 64 bits. Imports no torch and no NumPy."""

from __future__ import annotations

import array
import base64
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resumable.state.codec.tree import Document

# Shorter lists stay lists, which people read in the file.
MIN_NUMBERS = 64

DTYPES: Mapping[str, str] = {"$floats": "<f8", "$ints": "<i8"}
_CODES = {"$floats": "d", "$ints": "q"}


def is_of_numbers(values: Sequence[object]) -> bool:
    """Return whether a list is long enough for an array, and of floats alone or of ints alone; a bool is no int."""
    return len(values) >= MIN_NUMBERS and type(values[0]) in (float, int) and len({*map(type, values)}) == 1


def tag_of(values: Sequence[Any]) -> str | None:
    """Return the tag of a list that is stored as an array, or None; ints beyond 64 bits stay a list."""
    if not is_of_numbers(values):
        return None
    if type(values[0]) is float:
        return "$floats"
    return "$ints" if min(values) >= -(2**63) and max(values) < 2**63 else None


def number_document(value: float) -> Document:
    """Return the document of an int, a bool or a float."""
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    # Other JSON readers keep 64 bits, and Python parses at most 4300 decimal digits.
    return value if -(2**63) <= value < 2**64 else {"$int": hex(int(value))}


def items_of(document: object) -> list[Document] | None:
    """Return the documents of the numbers of a list that is stored as an array in the document itself.

    None for any other document, for numbers in a blob, and for malformed ones.
    """
    if not isinstance(document, dict) or len(document) != 1:
        return None
    ((tag, content),) = document.items()
    if tag not in DTYPES:
        return None
    try:
        stored = content["$ndarray"]
        numbers = array.array(_CODES[tag], base64.b64decode(stored["data"], validate=True))
    except (KeyError, TypeError, ValueError):
        return None
    if stored["dtype"] != DTYPES[tag]:
        return None
    if sys.byteorder == "big":
        numbers.byteswap()
    return [number_document(number) for number in numbers]
